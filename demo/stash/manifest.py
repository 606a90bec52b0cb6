"""A plugin's manifest, read as strictly as Stash reads it: one unknown or doubled key and the plugin is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class ManifestError(Exception):
    """The manifest is refused; Stash would log this and go on without the plugin."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A task or a hook."""

    name: str = ""
    description: str = ""
    exec_args: tuple[str, ...] = ()
    default_args: dict[str, str] = field(default_factory=dict)
    triggered_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    type: str = "STRING"
    display_name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Ui:
    requires: tuple[str, ...] = ()
    javascript: tuple[str, ...] = ()
    css: tuple[str, ...] = ()
    assets: dict[str, str] = field(default_factory=dict)
    csp: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A plugin as its manifest describes it."""

    id: str
    path: Path
    name: str
    description: str | None
    version: str | None
    url: str | None
    interface: str
    exec: tuple[str, ...]
    err_log: str
    tasks: tuple[Operation, ...]
    hooks: tuple[Operation, ...]
    settings: dict[str, Setting]
    ui: Ui

    @property
    def folder(self) -> Path:
        return self.path.parent

    def task(self, name: str) -> Operation | None:
        return next((task for task in self.tasks if task.name == name), None)


def load(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: not YAML, an unknown key at any level, a key twice, a value of the wrong kind.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as exc:
        raise ManifestError(f"{path}: {exc}") from exc
    if root is None:
        raise ManifestError(f"{path}: EOF")
    top = _mapping(root, "manifest", _TOP)
    interface = top.get("interface") or "raw"
    if interface not in {"raw", "rpc", "js"}:
        raise ManifestError(f"{path}: invalid interface type {interface}")
    settings = top.get("settings") or {}
    for key, setting in settings.items():
        if setting.type not in {"STRING", "NUMBER", "BOOLEAN"}:
            raise ManifestError(f"{path}: invalid type {setting.type} for setting {key}")
    return Manifest(
        id=path.stem,
        path=path,
        name=top.get("name") or path.stem,
        description=top.get("description"),
        version=top.get("version"),
        url=top.get("url"),
        interface=interface,
        exec=top.get("exec") or (),
        err_log=top.get("errLog") or "",
        tasks=top.get("tasks") or (),
        hooks=top.get("hooks") or (),
        settings=settings,
        ui=top.get("ui") or Ui(),
    )


def manifests_under(folder: Path) -> list[Path]:
    """Every file that Stash would try as a manifest."""
    return sorted(path for path in folder.rglob("*.yml") if path.is_file())


# ---- strict reading of YAML nodes ----

Reader = Callable[[yaml.Node | None, str], Any]


def _is_null(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null")


def _text(node: yaml.Node | None, where: str) -> str:
    """Any scalar is taken as it is written: `true` is "true", `1.0` is "1.0"."""
    if _is_null(node):
        return ""
    if not isinstance(node, yaml.ScalarNode):
        raise ManifestError(f"{where}: cannot be a list or a mapping")
    text: str = node.value
    return text


def _list_of(item: Callable[[yaml.Node | None, str], T]) -> Callable[[yaml.Node | None, str], tuple[T, ...]]:
    def read(node: yaml.Node | None, where: str) -> tuple[T, ...]:
        if _is_null(node):
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise ManifestError(f"{where}: must be a list")
        return tuple(item(child, f"{where}[{index}]") for index, child in enumerate(node.value))

    return read


def _pairs(node: yaml.Node | None, where: str) -> list[tuple[str, yaml.Node]]:
    if _is_null(node):
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ManifestError(f"{where}: must be a mapping")
    found: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = _text(key_node, where)
        if key in found:
            raise ManifestError(f'{where}: key "{key}" already set')
        found[key] = value
    return list(found.items())


def _map_of(item: Callable[[yaml.Node | None, str], T]) -> Callable[[yaml.Node | None, str], dict[str, T]]:
    return lambda node, where: {key: item(value, f"{where}.{key}") for key, value in _pairs(node, where)}


def _mapping(node: yaml.Node | None, where: str, readers: dict[str, Reader]) -> dict[str, Any]:
    found = {}
    for key, value in _pairs(node, where):
        if key not in readers:
            raise ManifestError(f"{where}: field {key} not found")
        found[key] = None if _is_null(value) else readers[key](value, f"{where}.{key}")
    return found


_OPERATION: dict[str, Reader] = {
    "name": _text,
    "description": _text,
    "execArgs": _list_of(_text),
    "defaultArgs": _map_of(_text),
}


def _operation(readers: dict[str, Reader]) -> Callable[[yaml.Node | None, str], Operation]:
    def read(node: yaml.Node | None, where: str) -> Operation:
        found = _mapping(node, where, readers)
        return Operation(
            name=found.get("name") or "",
            description=found.get("description") or "",
            exec_args=found.get("execArgs") or (),
            default_args=found.get("defaultArgs") or {},
            triggered_by=found.get("triggeredBy") or (),
        )

    return read


def _setting(node: yaml.Node | None, where: str) -> Setting:
    found = _mapping(node, where, {"type": _text, "displayName": _text, "description": _text})
    return Setting(found.get("type") or "STRING", found.get("displayName") or "", found.get("description") or "")


def _ui(node: yaml.Node | None, where: str) -> Ui:
    found = _mapping(node, where, _UI)
    return Ui(**{key: value for key, value in found.items() if value is not None})


def _csp(node: yaml.Node | None, where: str) -> dict[str, Any]:
    return _mapping(node, where, dict.fromkeys(("script-src", "style-src", "connect-src"), _list_of(_text)))


_UI: dict[str, Reader] = {
    "requires": _list_of(_text),
    "javascript": _list_of(_text),
    "css": _list_of(_text),
    "assets": _map_of(_text),
    "csp": _csp,
}

_TOP: dict[str, Reader] = {
    "name": _text,
    "description": _text,
    "version": _text,
    "url": _text,
    "interface": _text,
    "exec": _list_of(_text),
    "errLog": _text,
    "tasks": _list_of(_operation(_OPERATION)),
    "hooks": _list_of(_operation(_OPERATION | {"triggeredBy": _list_of(_text)})),
    "settings": _map_of(_setting),
    "ui": _ui,
}
