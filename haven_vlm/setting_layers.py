"""How settings come together: layers, the last one winning key by key, and every mistake told with its layer."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from haven_vlm.errors import ConfigError
from haven_vlm.setting_texts import FROM_TEXT
from haven_vlm.settings import FROM_STASH, Settings

log = logging.getLogger(__name__)

DEFAULTS_LAYER = "haven_vlm_config.py"
PAGE_LAYER = "Stash's settings page"
ARGUMENTS_LAYER = "arguments of the task"

_EXAMPLES = ("Basketball point", "Foul", "Break-away", "Turnover")
"""Names of the tag list as it is shipped. While it holds, a run says that these are examples."""

_SECRET_KEYS = ("api_key", "api_key_env", "base_url")
"""Keys whose values never stand in a message: people type keys into all of them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place, with the name that messages call it by."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings of a run and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Key → name of the layer whose value holds."""

    @property
    def looks_for_examples(self) -> bool:
        """Whether nobody has said what to look for, so that the examples hold."""
        unset = self.origins.get("tag_list", DEFAULTS_LAYER) == DEFAULTS_LAYER
        return unset and tuple(t.name for t in self.settings.tag_list) == _EXAMPLES


PAGE_SWITCHES = {
    "no_markers": ("create_markers", False),
    "local_only": ("allow_remote_media", False),
    "remove_incorrect_markers": ("remove_incorrect_markers", True),
}
"""Switches of the page, whose off is the default, → the setting and the value they stand for."""

PAGE_KEYS = (
    "endpoints", "model", "tag_list", "tag_parent", "video_frame_interval", "sampling", "image_max_side",
    "concurrent_task_limit", "threshold", "min_marker_duration", "max_gap", "path_mutation", "data_dir", *PAGE_SWITCHES,
)  # fmt: skip
"""Keys the manifest declares."""


def page_layer(page: Mapping[str, object]) -> Layer:
    """What the page holds, as a layer. An empty text, 0 and an unset switch mean: not set here.

    Stash stores what it is given, of whatever type. A switch that is neither on nor off stays as it is, for `merge`
    to refuse: it must never come to mean its opposite.
    """
    values: dict[str, Any] = {}
    for key, value in page.items():
        if key in PAGE_SWITCHES:
            setting, meaning = PAGE_SWITCHES[key]
            switched = _SWITCHES.get(str(value).strip().casefold())
            if switched:
                values[setting] = meaning
            elif switched is None:
                values[key] = value
        elif key not in PAGE_KEYS:
            log.warning("Stash's settings page holds “%s”, which this version does not know; it is not used.", key)
        elif value not in (None, "", 0):
            values[key] = value.strip() if isinstance(value, str) else value
    return Layer(PAGE_LAYER, values)


_SWITCHES = {
    **dict.fromkeys(("true", "1", "1.0", "on", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "off", "no", "none", ""), False),
}


def _with_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """A layer that names tags, or a tag above them, says where the tags come from: what lower layers say is over."""
    source = {}
    if values.get("tag_parent"):
        source["tag_list"] = FROM_STASH
    elif "tag_list" in values and str(values["tag_list"]).strip() != FROM_STASH:
        source["tag_parent"] = ""
    return {**source, **values}


def merge(layers: Sequence[Layer]) -> LoadedSettings:
    """Put layers together, the last one winning key by key, and check the whole.

    Raises:
        ConfigError: naming every mistake: key, layer, what was found, what is allowed.
    """
    settings, origins, problems, across = _merged(layers)
    if settings is None or problems or across:
        raise _all_told([*problems, *across])
    return LoadedSettings(settings, origins)


def check_each(layers: Sequence[Layer]) -> None:
    """See that each key holds by itself; what only holds or fails together with layers to come is not looked at.

    Raises:
        ConfigError: naming every mistake.
    """
    if problems := _merged(layers)[2]:
        raise _all_told(problems)


def _all_told(problems: Sequence[str]) -> ConfigError:
    count = "One setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
    return ConfigError(f"{count}:\n" + "\n".join(f"• {p}" for p in problems))


def _merged(layers: Sequence[Layer]) -> tuple[Settings | None, dict[str, str], list[str], list[str]]:
    """Settings, if they hold; key → layer; mistakes of single keys; mistakes across keys."""
    problems: list[str] = []
    across: list[str] = []
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    spare: dict[str, list[tuple[str, Any]]] = {}
    model_everywhere: tuple[str, str] | None = None
    for layer in layers:
        for key, value in _with_source(layer.values).items():
            if key == "model" and layer.name in (PAGE_LAYER, ARGUMENTS_LAYER):
                model_everywhere = (str(value), layer.name)
                continue
            if key not in Settings.model_fields:
                problems.append(_unknown_key(key, layer.name))
                continue
            if isinstance(value, str) and key in FROM_TEXT:
                try:
                    value = FROM_TEXT[key](value)
                except ValueError as exc:
                    problems.append(f"{key} ({layer.name}): {exc}")
                    continue
            if key in merged:
                spare.setdefault(key, []).append((origins[key], merged[key]))
            merged[key], origins[key] = value, layer.name
    if model_everywhere and isinstance(merged.get("endpoints"), list):
        merged["endpoints"] = [
            {"model": model_everywhere[0], **{k: v for k, v in e.items() if k != "model" or v}}
            if isinstance(e, Mapping)
            else e
            for e in merged["endpoints"]
        ]
    # Checks across keys only run on valid keys, so what is wrong is replaced by the layer below (or the
    # built-in default) and the rest checked again: that way all mistakes are told at once.
    settings: Settings | None = None
    for _ in range(len(layers) + 1):
        try:
            settings = Settings.model_validate(merged)
        except ValidationError as exc:
            bad: set[str] = set()
            for error in exc.errors(include_url=False):
                kind = problems if error["loc"] else across
                kind += [p for p in _told(error, origins) if p not in kind]
                if error["loc"]:
                    bad.add(str(error["loc"][0]))
            if not bad:
                break
            for key in bad:
                lower = spare.get(key, [])
                if lower:
                    origins[key], merged[key] = lower.pop()
                elif merged.pop(key, None) is None:
                    break
        else:
            break
    return settings, origins, problems, across


def _unknown_key(key: str, layer: str) -> str:
    if key in PAGE_SWITCHES:
        setting, meaning = PAGE_SWITCHES[key]
        if layer == PAGE_LAYER:
            return f"{key} ({layer}): it must be on or off"
        return f"{key} ({layer}): is a switch of Stash's page only; write {setting}: {str(meaning).lower()} here"
    near = difflib.get_close_matches(key.lower(), [*Settings.model_fields], n=1)
    return f"{key} ({layer}): there is no such setting" + (f"; did you mean {near[0]}?" if near else "")


def _told(error: Any, origins: Mapping[str, str]) -> list[str]:
    """One mistake as pydantic reports it, in the user's words."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # checks of the whole; each names its keys itself
        return [f"{part}{_origin_of(part, origins)}" for part in message.split("; ")]
    path = ""
    for part in error["loc"]:
        path += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if path else str(part)
    layer = origins.get(str(error["loc"][0]), DEFAULTS_LAYER)
    if error["type"] == "extra_forbidden":
        return [f"{path} ({layer}): there is no such key here"]
    if error["type"] == "missing":
        return [f"{path} ({layer}): is missing"]
    message = _IN_WORDS.get(error["type"], message)
    secret = any(str(part) in _SECRET_KEYS for part in error["loc"])
    found = "" if secret else f"found {shown(error['input'])}; "
    return [f"{path} ({layer}): {found}{message[:1].lower()}{message[1:]}"]


_IN_WORDS = {
    "tuple_type": "a list is needed",
    "list_type": "a list is needed",
    "mapping_type": "a mapping is needed",
    "dict_type": "a mapping is needed",
    "model_type": "a name, or a mapping with a name and more, is needed",
    "model_attributes_type": "a name, or a mapping with a name and more, is needed",
    "string_type": "text is needed (numbers and yes or no need quotes)",
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "path_type": "the name of a folder is needed",
}
"""Type of pydantic's error → what the user is told."""


def _origin_of(message: str, origins: Mapping[str, str]) -> str:
    key = message.split(":", 1)[0]
    return f" ({origins[key]})" if key in origins else ""


def shown(value: object) -> str:
    """A value for a message: short, and without what may be secret inside it."""
    if isinstance(value, Mapping | list | tuple):
        return "a list" if not isinstance(value, Mapping) else "a mapping"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
