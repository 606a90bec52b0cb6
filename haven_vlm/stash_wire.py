"""The process edge's wire: what Stash writes to our stdin, and the one object it reads from our stdout.

Stash's rules: pkg/plugin/common/msg.go and pkg/plugin/raw.go. What goes to stderr is in `stash_log`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from haven_vlm.errors import WireError
from haven_vlm.stash_address import StashConnection

_HINT = "Start the task from Stash (Settings → Tasks → Plugin tasks), or name a Stash on the command line: --stash URL"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What Stash hands to a task. Neither login nor arguments show in its `repr`."""

    connection: StashConnection
    plugin_dir: Path
    """Absolute folder of the manifest."""
    config_dir: Path
    """Absolute folder of Stash's configuration file."""
    mode: str
    """`args.mode`: which task; '' when none was named. Whether there is such a task is the connector's question."""
    args: Mapping[str, object] = field(repr=False)
    """The other arguments, as they came: texts from the manifest, any JSON type from a caller."""


def read_envelope(data: bytes) -> Envelope:
    """Read the JSON document that a plugin gets on stdin.

    Raises:
        WireError: it is not one; says what is wrong, without quoting it (it holds the login).
    """
    if not data.strip():
        raise WireError(f"nothing came on standard input. {_HINT}")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise WireError("standard input is not UTF-8") from exc
    except (ValueError, RecursionError):
        raise WireError(f"standard input is not the JSON document Stash sends. {_HINT}") from None
    if not isinstance(content, dict):
        raise WireError(f"standard input holds JSON, but no object. {_HINT}")
    server = content.get("server_connection")
    connection = StashConnection.from_server_connection(server)
    assert isinstance(server, dict)
    args = content.get("args")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise WireError("args must be an object of names and values")
    mode = args.get("mode", "")
    if not isinstance(mode, str):
        raise WireError("args.mode must be the name of a task")
    return Envelope(
        connection=connection,
        plugin_dir=_folder(server, "PluginDir"),
        config_dir=_folder(server, "Dir"),
        mode=mode.strip(),
        args={name: value for name, value in args.items() if name != "mode"},
    )


def _folder(server: Mapping[str, object], key: str) -> Path:
    value = server.get(key)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise WireError(f"server_connection.{key} must name a folder")
    return Path(value).absolute()  # PluginDir is relative when Stash's plugins_path is


def reply(output: object = "ok", *, error: BaseException | str | None = None) -> str:
    """The one JSON object for stdout: one line, ASCII only, whatever the texts hold.

    Args:
        output: what a caller of `runPluginOperation` gets; anything JSON can say, the rest as text.
        error: makes Stash show a failed task; always a text in the reply, never empty (an empty one would
            count as success, another type would make Stash take the whole reply for plain output).
    """
    body: dict[str, object] = {"output": plain(output)}
    if error is not None:
        body["error"] = str(error).strip() or (type(error).__name__ if isinstance(error, BaseException) else "failed")
    return json.dumps(body, ensure_ascii=True, allow_nan=False)


def plain(value: object, depth: int = 0) -> object:
    """The value in what JSON knows; NaN and infinities, which Go refuses, become null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth < 50 and isinstance(value, Mapping):
        return {str(name): plain(item, depth + 1) for name, item in value.items()}
    if depth < 50 and isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    return str(value)


class ProgressWriter:
    """Lets progress through when there is something to see: not too often, never backwards, the end always.

    Args:
        write: takes the fraction, 0 to 1, and a text for people.
        every_s: at most one in this many seconds; Stash itself drops what comes faster than every 0.1 s.
        step: smallest change worth writing.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        write: Callable[[float, str], None],
        *,
        every_s: float = 0.5,
        step: float = 0.0005,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._every_s = every_s
        self._step = step
        self._clock = clock
        self._shown: float | None = None
        self._shown_at = 0.0

    def __call__(self, fraction: float, text: str = "") -> None:
        """Show this much, 0 to 1, if it is time."""
        if math.isnan(fraction):
            return
        fraction = min(1.0, max(0.0, fraction))
        now = self._clock()
        if self._shown is not None:
            ended = fraction == 1.0 and self._shown < 1.0
            if not ended and (fraction < self._shown + self._step or now < self._shown_at + self._every_s):
                return
        self._shown, self._shown_at = fraction, now
        self._write(fraction, text)
