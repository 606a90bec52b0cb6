"""Arguments of a task that are not settings: what it shall work on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Kind

_OPTIONS = ("ids", "kind", "limit", "everything", "run", "apply")
_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclass(frozen=True, slots=True)
class Options:
    """What a task shall work on, where it is not what is tagged."""

    ids: tuple[str, ...] = ()
    """Work on these media instead of those that are tagged. `undo`: only what was done to them."""
    kind: Kind | None = None
    """What the ids mean; None: what the task works on first (scenes; for Tag Images images)."""
    limit: int | None = None
    """Work on so many media at most."""
    everything: bool = False
    """`update`: all media that were ever tagged. `undo`: all runs."""
    run: int | None = None
    """`undo`: this run instead of the last one."""
    apply: bool = False
    """`find_marker_settings`: put the proposal into effect instead of making one."""

    @classmethod
    def take(cls, arguments: Mapping[str, object]) -> tuple[Options, dict[str, object]]:
        """Split a task's arguments into options and settings.

        Raises:
            ConfigError: an option is not what it should be.
        """
        rest = {k: v for k, v in arguments.items() if k not in ("mode", *_OPTIONS)}
        problems: list[str] = []
        ids = _ids(arguments["ids"], problems) if "ids" in arguments else ()
        kind = _kind(arguments.get("kind"), problems)
        if kind is not None and "ids" not in arguments:
            problems.append("kind: it says what ids are; name ids, too")
        numbers: dict[str, int | None] = {"limit": None, "run": None}
        for name in numbers:
            value = arguments.get(name)
            if value in (None, ""):
                continue
            if not re.fullmatch(r"[1-9]\d{0,9}", str(value)):
                problems.append(f"{name}: a whole number of at least 1 is needed")
            else:
                numbers[name] = int(str(value))
        switches = {"everything": False, "apply": False}
        for name in switches:
            switch = str(arguments.get(name, "")).strip().casefold()
            if switch not in _ON + _OFF:
                problems.append(f"{name}: true or false is needed")
            switches[name] = switch in _ON
        if problems:
            raise ConfigError("The arguments of the task are wrong: " + "; ".join(problems))
        return cls(ids, kind, numbers["limit"], switches["everything"], numbers["run"], switches["apply"]), rest


def _ids(given: object, problems: list[str]) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list | tuple) else [given]
    ids = [str(part).strip() for part in parts if str(part).strip()]
    # no ids is not the same as none named: that would be everything that is tagged
    if not ids or not all(i.isascii() and i.isdecimal() for i in ids):
        problems.append("ids: numbers are needed, separated by commas")
    return tuple(dict.fromkeys(ids))


def _kind(given: object, problems: list[str]) -> Kind | None:
    name = str(given or "").strip().casefold()
    if not name:
        return None
    kinds = {word: kind for kind in Kind for word in (kind.value, f"{kind.value}s")} | {"galleries": Kind.GALLERY}
    if name not in kinds:
        problems.append(f"kind: one of {', '.join(kind.value for kind in Kind)} is needed")
    return kinds.get(name)
