"""The defaults a person can edit, and how settings come together from four layers.

    capitals in this file  <  haven_vlm_config.yaml  <  Stash's settings page  <  arguments of the task

The same keys in lower case may stand in `haven_vlm_config.yaml`, which survives updates of the plugin: put
your own values there. What each key means is in docs/settings.md.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from haven_vlm.errors import ConfigError
from haven_vlm.settings import FROM_STASH as _FROM_STASH
from haven_vlm.settings import EndpointSettings, Settings
from haven_vlm.yaml_edit import Entry

log = logging.getLogger(__name__)

# --- defaults -------------------------------------------------------------------------------------------------

# Model servers. Only this machine by default: LM Studio's usual address.
ENDPOINTS = [
    {"name": "LM Studio", "base_url": "http://localhost:1234/v1", "weight": 5, "is_fallback": False},
]

# What to look for. A name alone will do; a definition makes the answers better.
TAG_LIST = [
    {"name": "Basketball point", "definition": "The ball goes through the hoop."},
    {"name": "Foul", "definition": "Illegal contact between players, or the referee signalling it."},
    {"name": "Break-away", "definition": "A player runs alone towards the other basket with the ball."},
    {"name": "Turnover", "definition": "The ball changes hands without a shot."},
]

_EXAMPLES = ("Basketball point", "Foul", "Break-away", "Turnover")
"""Names of the list above as it is shipped; no setting. While it holds, a run says that these are examples."""

VIDEO_FRAME_INTERVAL = 2.0
CONCURRENT_TASK_LIMIT = 8
CREATE_MARKERS = True
IMAGE_MAX_SIDE = 640

# Folder as Stash names it → the same folder as this machine names it, for example {"/data": "/mnt/videos"}.
PATH_MUTATION: dict[str, str] = {}

# --- layers ---------------------------------------------------------------------------------------------------

DEFAULTS_LAYER = "haven_vlm_config.py"
PAGE_LAYER = "Stash's settings page"
ARGUMENTS_LAYER = "arguments of the task"
YAML_NAME = "haven_vlm_config.yaml"

_BARE_ADDRESS = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d))(:\d{1,5})?(/\S*)?")
"""What people type for an address: a name or numbers, perhaps with a port, without http://."""

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
        """Whether nobody has said what to look for, so that the examples of this file hold."""
        unset = self.origins.get("tag_list", DEFAULTS_LAYER) == DEFAULTS_LAYER
        return unset and tuple(t.name for t in self.settings.tag_list) == _EXAMPLES


def load_settings(
    *,
    plugin_dir: Path,
    config_dir: Path | None,
    page: Mapping[str, object],
    arguments: Mapping[str, object],
    environ: Mapping[str, str] = os.environ,
) -> LoadedSettings:
    """Put the four layers together.

    Args:
        plugin_dir: folder of the plugin, where `haven_vlm_config.yaml` may lie.
        config_dir: Stash's configuration folder, where it may lie as well.
        page: what Stash's settings page holds for this plugin.
        arguments: settings among the task's arguments.
        environ: `HAVEN_VLM_CONFIG` may name another YAML file.

    Raises:
        ConfigError: with every mistake of every layer in it.
    """
    layers = [Layer(DEFAULTS_LAYER, default_values())]
    if (file := find_yaml(plugin_dir, config_dir, environ)) is not None:
        layers.append(Layer(str(file), read_yaml(file)))
    layers += [page_layer(page), Layer(ARGUMENTS_LAYER, dict(arguments))]
    return merge(layers)


def default_values() -> dict[str, Any]:
    """The capitals of this file, as a layer."""
    own = {"DEFAULTS_LAYER", "PAGE_LAYER", "ARGUMENTS_LAYER", "YAML_NAME", "PAGE_SWITCHES", "PAGE_KEYS"}
    # a capital that is no setting goes along too: it is a typing mistake, and `merge` says so
    return {n.lower(): value for n, value in globals().items() if n.isupper() and n[0] != "_" and n not in own}


def _fields() -> Mapping[str, Any]:
    return Settings.model_fields


def find_yaml(plugin_dir: Path, config_dir: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The YAML file that holds: the one `HAVEN_VLM_CONFIG` names, else beside the plugin, else in Stash's folder.

    Raises:
        ConfigError: `HAVEN_VLM_CONFIG` names a file that is not there.
    """
    if named := environ.get("HAVEN_VLM_CONFIG", "").strip():
        file = Path(named).expanduser()
        if not file.is_file():
            raise ConfigError(f"HAVEN_VLM_CONFIG names {file}, and there is no such file. Mend it or unset it.")
        return file
    for folder in (plugin_dir, config_dir):
        if folder is not None and (folder / YAML_NAME).is_file():
            return folder / YAML_NAME
    return None


def read_yaml(file: Path) -> Mapping[str, Any]:
    """Read a YAML file of settings; an empty one holds none.

    Raises:
        ConfigError: it cannot be read, is not YAML, names a key twice, or is not a mapping.
    """
    try:
        return parse_yaml(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} cannot be read: {exc}") from exc


def parse_yaml(text: str, name: str) -> Mapping[str, Any]:
    """Read settings from YAML; `name` is where they stand, for messages.

    Raises:
        ConfigError: it is not YAML, names a key twice, or is not a mapping.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        """Refuses a key that stands twice: YAML itself would silently keep the last."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = loader.construct_object(key_node)
            if not isinstance(key, list | dict):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key “{key}” stands twice", key_node.start_mark
                    )
                seen.add(key)
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        loader = Strict(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except ValueError as exc:  # such as the 30th of February
        raise ConfigError(f"{name}: {exc}; put quotes around it if it is text") from None
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{name}{line}: {getattr(exc, 'problem', None) or 'not YAML'}") from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{name}: expected keys with values, found {_shown(content)}")
    return {str(k): v for k, v in content.items()}


def outline_yaml(text: str) -> tuple[Entry, ...]:
    """On which lines the keys of a YAML mapping stand, three levels deep; nothing if it is no mapping in block style.

    The text is one that `parse_yaml` reads.
    """
    import yaml

    def last_line(node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode | yaml.SequenceNode) and not node.flow_style and node.value:
            inner = node.value[-1]
            return last_line(inner[1] if isinstance(inner, tuple) else inner)
        mark = node.end_mark
        return mark.line if mark.column == 0 and mark.line > node.start_mark.line else mark.line + 1

    def entries(node: yaml.Node | None, depth: int) -> tuple[Entry, ...]:
        if depth == 0 or not isinstance(node, yaml.MappingNode) or node.flow_style:
            return ()
        return tuple(
            Entry(
                key=str(key.value),
                line=key.start_mark.line,
                until_line=max(last_line(value), key.start_mark.line + 1),
                indent=key.start_mark.column,
                entries=entries(value, depth - 1),
            )
            for key, value in node.value
        )

    return entries(yaml.compose(text, Loader=yaml.SafeLoader), 3)


# --- Stash's settings page ------------------------------------------------------------------------------------

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


def _endpoints_from_text(text: str) -> list[dict[str, Any]]:
    """`http://host:1234/v1 model=x weight=5 max=4 fallback remote key_env=NAME`, several separated by ; or lines."""
    words = {
        **{w: w for w in EndpointSettings.model_fields if w != "base_url"},
        "max": "max_concurrent",
        "key": "api_key",
        "key_env": "api_key_env",
        "policy": "fallback_policy",
    }
    flags = {"fallback": "is_fallback", "remote": "allow_remote"}
    endpoints = []
    for line in re.split(r"[;\n]+", text):
        entry: dict[str, Any] = {}
        for part in line.split():
            key, equals, value = part.partition("=")
            if part.startswith(("http://", "https://")):
                if "base_url" in entry:
                    raise ValueError("two addresses in one entry: separate endpoints with a semicolon")
                entry["base_url"] = part
            elif equals and key.lower() in words:
                entry[words[key.lower()]] = value
            elif not equals and part.lower() in flags:
                entry[flags[part.lower()]] = True
            elif "base_url" not in entry and _BARE_ADDRESS.fullmatch(part):
                raise ValueError("an address begins with http:// or https://, for example http://192.168.1.20:1234/v1")
            else:
                allowed = ", ".join([f"{w}=…" for w in words if "_" not in w] + list(flags))
                # the word itself may be a key typed in the wrong place, so it is not repeated
                raise ValueError(f"one word is not understood; write ADDRESS and then any of: {allowed}")
        if entry and "base_url" not in entry:
            raise ValueError("an entry without an address: write http://… first")
        if entry:
            endpoints.append(entry)
    return endpoints


def _names_from_text(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;\n]+", text) if part.strip()]


def _paths_from_text(text: str) -> dict[str, str]:
    paths = {}
    for part in re.split(r"[;\n]+", text):
        if part.strip():
            theirs, arrow, ours = part.partition("=")
            if not arrow or not theirs.strip() or not ours.strip():
                raise ValueError("write FOLDER-IN-STASH=FOLDER-HERE, several separated by ;")
            paths[theirs.strip()] = ours.strip()
    return paths


_FROM_TEXT: Mapping[str, Callable[[str], object]] = {
    "endpoints": _endpoints_from_text,
    "tag_list": _names_from_text,
    "skip_tags": _names_from_text,
    "skip_paths": lambda text: [part.strip() for part in re.split(r"[;\n]+", text) if part.strip()],
    "skip_studios": _names_from_text,
    "path_mutation": _paths_from_text,
}
"""Settings that are lists or mappings, and how they are written as one text."""


# --- merging --------------------------------------------------------------------------------------------------


def _with_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """A layer that names tags, or a tag above them, says where the tags come from: what lower layers say is over."""
    source = {}
    if values.get("tag_parent"):
        source["tag_list"] = _FROM_STASH
    elif "tag_list" in values and str(values["tag_list"]).strip() != _FROM_STASH:
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


def check_arguments(arguments: Mapping[str, object]) -> None:
    """See that each argument holds by itself: that can be told before Stash is asked for the other settings.

    Raises:
        ConfigError: naming every mistake.
    """
    if problems := _merged([Layer(DEFAULTS_LAYER, default_values()), Layer(ARGUMENTS_LAYER, dict(arguments))])[2]:
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
            if key not in _fields():
                problems.append(_unknown_key(key, layer.name))
                continue
            if isinstance(value, str) and key in _FROM_TEXT:
                try:
                    value = _FROM_TEXT[key](value)
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
    near = difflib.get_close_matches(key.lower(), [*_fields()], n=1)
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
    found = "" if secret else f"found {_shown(error['input'])}; "
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


def _shown(value: object) -> str:
    """A value for a message: short, and without what may be secret inside it."""
    if isinstance(value, Mapping | list | tuple):
        return "a list" if not isinstance(value, Mapping) else "a mapping"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
