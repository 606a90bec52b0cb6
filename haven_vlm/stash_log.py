"""Standard error, as Stash reads it: lines that start with \\x01, a level, \\x02 (pkg/plugin/log.go).

Whatever has no such start becomes an Error entry in Stash's log, a line of 64 KiB ends all logging, and a
name with a line break in it could forge entries. So every byte for stderr passes here: records of logging,
warnings, unhandled exceptions, and what C libraries write to the file descriptor behind Python's back
(ffmpeg's complaints about damaged videos; the media reader need not silence them, and may).

On a terminal or under cron the same records come as plain lines, with a progress bar on a terminal.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import shutil
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from haven_vlm.errors import HavenError
from haven_vlm.stash_wire import ProgressWriter

OURS = (
    "haven_vlm", "haven_vlm_connector", "haven_vlm_config", "haven_vlm_engine", "haven_vlm_utility",
    "haven_media_handler",
)  # fmt: skip
"""Loggers of this project."""

MAX_LINE_BYTES = 32_000
"""Of one line's text. Stash stops reading for good at a line of 65,536 bytes."""
_MAX_LINES = 400
"""Of one record; a traceback of endless recursion is cut in the middle."""

log = logging.getLogger(__name__)

_DATA_URL = re.compile(r"(data:[\w.+/;=-]{0,100};base64,)([A-Za-z0-9+/=_-]{64,})")
_LOGIN = re.compile(r"(?i)\b(apikey=|api[_-]?key['\"]?\s*[:=]\s*['\"]?|bearer\s+|session=)([A-Za-z0-9._~+/=|-]{8,})")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def safe_lines(text: str, *, secrets: tuple[str, ...] = ()) -> list[bytes]:
    """A message as lines that can neither break the protocol nor pass for somebody else's.

    Blank lines go; every line after the first starts with “| ”, so that a line break inside a name cannot look
    like an entry of its own; control characters and marks that reverse the direction of text are spelled out.
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _DATA_URL.sub(lambda match: f"{match[1]}<{len(match[2])} characters>", text)
    text = _LOGIN.sub(r"\1***", text)
    rows = [row for row in text.replace("\r\n", "\n").split("\n") if row.strip()]
    if len(rows) > _MAX_LINES:
        half = _MAX_LINES // 2
        rows = [*rows[:half], f"… {len(rows) - 2 * half} lines left out …", *rows[-half:]]
    lines = []
    for number, row in enumerate(rows):
        clean = _CONTROL.sub(_visible, row.replace("\t", "    ")).rstrip()
        line = ("| " if number else "").encode() + clean.encode("utf-8", "backslashreplace")
        lines.append(line if len(line) <= MAX_LINE_BYTES else _cut(line))
    return lines


def _cut(line: bytes) -> bytes:
    kept = line[:MAX_LINE_BYTES].decode("utf-8", "ignore").encode()
    return kept + f" … {len(line) - len(kept)} bytes left out".encode()


class Display(Protocol):
    """Where records and progress go."""

    def hide(self, *secrets: str) -> None:
        """Replace these by stars in everything written from now on."""
        ...

    def progress(self, fraction: float, text: str = "") -> None:
        """Show how far the run is, 0 to 1."""
        ...

    def rest(self) -> None:
        """The run is over: what is written to standard output next must not meet half a line."""
        ...


class _ByteHandler(logging.Handler, ABC):
    """Base: whole lines, as bytes, in one piece; a reader that went away is not worth an exception."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._secrets: tuple[str, ...] = ()
        self._broken = False

    def hide(self, *secrets: str) -> None:
        longest_first = sorted({*self._secrets, *(s for s in secrets if len(s) >= 4)}, key=len, reverse=True)
        self._secrets = tuple(longest_first)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as exc:  # noqa: BLE001 - arguments whose str() fails must not end a run
            text = f"{record.name}: a message could not be written ({type(exc).__name__}): {record.msg!r}"
        self._put(self._dressed(record, safe_lines(text, secrets=self._secrets)))

    @abstractmethod
    def _dressed(self, record: logging.LogRecord, lines: list[bytes]) -> bytes:
        """The lines of a record as they go out."""

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _put(self, data: bytes) -> None:
        """Write all of it: a raw pipe may take less than it is given."""
        view = memoryview(data)
        try:
            while view and not self._broken:
                written = self._stream.write(view)
                view = view[len(view) if written is None else written :]
            if not self._broken:
                self._stream.flush()
        except BlockingIOError:  # a terminal that is slow to read: lose the line, not the run
            pass
        except (OSError, ValueError):  # nobody reads any more; the stream is closed
            self._broken = True


class StashLogHandler(_ByteHandler):
    """Records and progress in Stash's protocol."""

    def _dressed(self, record: logging.LogRecord, lines: list[bytes]) -> bytes:
        start = b"\x01" + _level(record.levelno) + b"\x02"
        return b"".join(start + line + b"\n" for line in lines)

    def progress(self, fraction: float, text: str = "") -> None:
        """Move the bar of the task in Stash; `text` is for terminals."""
        with self._held():
            self._put(f"\x01p\x02{fraction:.4f}\n".encode())

    def rest(self) -> None:
        """Nothing to do: every line of the protocol is whole."""


def _level(number: int) -> bytes:
    if number >= logging.ERROR:
        return b"e"
    if number >= logging.WARNING:
        return b"w"
    if number >= logging.INFO:
        return b"i"
    return b"d" if number >= logging.DEBUG else b"t"


class PlainLogHandler(_ByteHandler):
    """Records for a person: with time and level; progress as a bar that stays at the bottom of a terminal,
    and as a line now and then elsewhere.

    Args:
        terminal: whether a carriage return brings the cursor back to the start of the line.
        quiet: no progress.
        width: columns of the terminal.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        terminal: bool,
        quiet: bool = False,
        width: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream)
        self._terminal = terminal
        self._quiet = quiet
        self._width = width
        self._lines = ProgressWriter(self._line, every_s=60.0, step=0.0, clock=clock)
        self._bar = b""

    def _dressed(self, record: logging.LogRecord, lines: list[bytes]) -> bytes:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        start, blank = f"{clock} {level}".encode(), b" " * 9
        body = b"".join((blank if number else start) + line + b"\n" for number, line in enumerate(lines))
        return self._wiped() + body + self._bar

    def progress(self, fraction: float, text: str = "") -> None:
        """Draw the bar anew, or write a line when the last one is a minute old."""
        if self._quiet:
            return
        with self._held():
            if not self._terminal:
                self._lines(fraction, text)
                return
            wiped, filled = self._wiped(), round(20 * fraction)
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] {fraction:4.0%} {text}"
            self._bar = bar.encode("ascii", "replace")[: max(10, self._width() - 1)]
            self._put(wiped + self._bar + (b"\n" if fraction >= 1 else b""))
            if fraction >= 1:
                self._bar = b""

    def rest(self) -> None:
        """Wipe the bar: what is printed next starts on a clean line."""
        with self._held():
            self._put(self._wiped())
            self._bar = b""

    def close(self) -> None:
        """Wipe the bar, and take no more records."""
        self.rest()
        super().close()

    def _wiped(self) -> bytes:
        return b"\r" + b" " * len(self._bar) + b"\r" if self._bar else b""

    def _line(self, fraction: float, text: str) -> None:
        self._put(f"{time.strftime('%H:%M:%S')} {fraction:.0%} {text}".rstrip().encode("utf-8", "replace") + b"\n")


# --- everything that may reach stderr -------------------------------------------------------------------------


@contextlib.contextmanager
def install_logging(
    stream: BinaryIO | None = None, *, plain: bool = False, verbose: bool = False, quiet: bool = False
) -> Iterator[StashLogHandler | PlainLogHandler]:
    """Send records, warnings and unhandled exceptions to `stream`, properly dressed; undone at the end.

    asyncio's own complaints (exceptions nobody fetched) arrive as records. Call it first thing in a process.

    Args:
        stream: binary, for tests. None: this process's stderr; then everything that anybody else writes to
            that descriptor (C libraries, `print`, child processes) is caught too and becomes a debug record.
        plain: lines for people instead of Stash's protocol.
        verbose: debug records too. Stash filters by its own level, so there they are always sent.
        quiet: of the lines for people only warnings and errors, and no progress.

    Yields:
        The handler: a `Display`; give `progress` to a `ProgressWriter`, and secrets to `hide`.
    """
    with contextlib.ExitStack() as stack:
        ours = stream is None
        if stream is None:
            terminal = plain and os.isatty(2)
            stream = stack.enter_context(_copy_of(2))
        else:
            terminal = plain and stream.isatty()
        handler = PlainLogHandler(stream, terminal=terminal, quiet=quiet) if plain else StashLogHandler(stream)
        level = logging.DEBUG if verbose or not plain else logging.WARNING if quiet else logging.INFO
        stack.enter_context(_root_handler(handler, level))
        stack.enter_context(_hooks())
        if ours:
            stack.enter_context(_stderr_caught(stream))
        yield handler


@contextlib.contextmanager
def _root_handler(handler: logging.Handler, level: int) -> Iterator[None]:
    root = logging.getLogger()
    before = [(logger, logger.level) for logger in (root, *map(logging.getLogger, OURS))]
    handlers = root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        for logger, old in before:
            logger.setLevel(old)
        handler.close()


@contextlib.contextmanager
def _hooks() -> Iterator[None]:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook

    def unhandled(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        if isinstance(exc, KeyboardInterrupt):
            log.warning("stopped by Ctrl-C")
        elif isinstance(exc, HavenError):
            log.error("%s", exc)
        else:
            log.critical("the connector stopped because of a mistake of its own", exc_info=(kind, exc, trace))

    def in_thread(args: Any) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            info = (args.exc_type, args.exc_value, args.exc_traceback)
            log.error("thread %s ended by an error", args.thread.name if args.thread else "?", exc_info=info)

    def unraisable(args: Any) -> None:
        info = (args.exc_type, args.exc_value, args.exc_traceback) if args.exc_value is not None else None
        log.warning("%s", args.err_msg or "an exception could not be raised", exc_info=info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = unhandled, in_thread, unraisable
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before


def _copy_of(descriptor: int) -> BinaryIO:
    """The same file under another number; a sink when it was closed (`2>&-`), so that no database gets that number."""
    try:
        return os.fdopen(os.dup(descriptor), "wb", buffering=0)
    except OSError:
        sink = open(os.devnull, "wb", buffering=0)  # noqa: SIM115 - the caller closes it
        os.dup2(sink.fileno(), descriptor)
        return sink


_NOISE_PER_S = 20
"""Lines of strangers per second that are worth an entry: a damaged video makes ffmpeg write thousands."""


@contextlib.contextmanager
def _stderr_caught(own: BinaryIO) -> Iterator[None]:
    """Put a pipe behind descriptor 2; what comes out becomes debug records. `own` is the real stderr."""
    reading, writing = os.pipe()
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            # C code that writes a flood without letting Python run would wait for the reader below for ever
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.dup2(writing, 2)
    os.close(writing)
    crashes_told = not faulthandler.is_enabled()
    if crashes_told:  # the pipe dies with us: the trace of a crash in C must go straight out
        faulthandler.enable(file=own)
    reader = threading.Thread(target=_drain, args=(reading,), name="stderr", daemon=True)
    reader.start()
    try:
        yield
    finally:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
        if crashes_told:
            faulthandler.disable()
        os.dup2(own.fileno(), 2)
        reader.join(2.0)  # a child process may still hold the other end


def _drain(reading: int) -> None:
    rest, second, shown, dropped = b"", 0, 0, 0
    with open(reading, "rb", buffering=0) as pipe:
        while chunk := pipe.read(65536):
            *rows, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                rows, rest = [*rows, rest], b""
            for row in filter(bytes.strip, rows):
                if (now := int(time.monotonic())) != second:
                    if dropped:
                        log.debug("stderr: %d more lines", dropped)
                    second, shown, dropped = now, 0, 0
                shown += 1
                if shown > _NOISE_PER_S:
                    dropped += 1
                else:
                    log.debug("stderr: %s", row.decode("utf-8", "replace"))
    if rest.strip():
        log.debug("stderr: %s", rest.decode("utf-8", "replace"))
    if dropped:
        log.debug("stderr: %d more lines", dropped)


@contextlib.contextmanager
def stdout_taken() -> Iterator[Callable[[str], None]]:
    """Keep standard output for the reply alone; undone at the end. Enter it inside `install_logging`, so that what
    is turned away from standard output meets a standard error that is dressed already.

    Whatever else anybody writes there (`print`, C libraries, child processes) goes to stderr instead, and a
    child that outlives us does not keep Stash waiting for the end of our output.

    Yields:
        Writes a text and a line break to the real standard output, at once.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with _copy_of(1) as own:

        def write(text: str) -> None:
            view = memoryview(text.encode("utf-8", "replace") + b"\n")
            with contextlib.suppress(BrokenPipeError):
                while view:
                    view = view[own.write(view) or 0 :]

        os.dup2(2, 1)
        try:
            yield write
        finally:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
            os.dup2(own.fileno(), 1)
