"""The defaults a person can edit, and how settings come together from four layers.

    capitals in this file  <  haven_vlm_config.yaml  <  Stash's settings page  <  arguments of the task

The same keys in lower case may stand in `haven_vlm_config.yaml`, which survives updates of the plugin: put
your own values there. What each key means is in docs/settings.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haven_vlm.errors import ConfigError
from haven_vlm.setting_layers import (
    ARGUMENTS_LAYER,
    DEFAULTS_LAYER,
    Layer,
    LoadedSettings,
    check_each,
    merge,
    page_layer,
    shown,
)
from haven_vlm.yaml_edit import Entry

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

VIDEO_FRAME_INTERVAL = 2.0
CONCURRENT_TASK_LIMIT = 8
CREATE_MARKERS = True
IMAGE_MAX_SIDE = 640

# Folder as Stash names it → the same folder as this machine names it, for example {"/data": "/mnt/videos"}.
PATH_MUTATION: dict[str, str] = {}

# --- layers ---------------------------------------------------------------------------------------------------

YAML_NAME = "haven_vlm_config.yaml"


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


def check_arguments(arguments: Mapping[str, object]) -> None:
    """See that each argument holds by itself: that can be told before Stash is asked for the other settings.

    Raises:
        ConfigError: naming every mistake.
    """
    check_each([Layer(DEFAULTS_LAYER, default_values()), Layer(ARGUMENTS_LAYER, dict(arguments))])


def default_values() -> dict[str, Any]:
    """The capitals of this file, as a layer."""
    own = {"DEFAULTS_LAYER", "ARGUMENTS_LAYER", "YAML_NAME"}
    # a capital that is no setting goes along too: it is a typing mistake, and `merge` says so
    return {n.lower(): value for n, value in globals().items() if n.isupper() and n[0] != "_" and n not in own}


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
        raise ConfigError(f"{name}: expected keys with values, found {shown(content)}")
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
