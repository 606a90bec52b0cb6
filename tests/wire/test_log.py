"""What reaches stderr: read back by Stash's own rules, whatever is thrown at it."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm import stash_log
from haven_vlm.errors import ConfigError
from haven_vlm.stash_log import MAX_LINE_BYTES, PlainLogHandler, StashLogHandler, install_logging, safe_lines
from haven_vlm.stash_wire import ProgressWriter

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"t": "trace", "d": "debug", "i": "info", "w": "warning", "e": "error", "p": "progress"}


def entries(data: bytes) -> list[tuple[str, str]]:
    """Level and text of each line, as Stash reads them (pkg/plugin/log.go, bufio.Scanner); '' = not ours, an Error."""
    assert not data or data.endswith(b"\n")
    found = []
    for line in data.split(b"\n")[:-1]:
        assert len(line) < 64 * 1024, "Stash stops reading here"
        text = line.decode("utf-8")
        if len(line) < 4 or text[0] != "\x01" or text[2] != "\x02" or text[1] not in LEVELS:
            found.append(("", text))
        else:
            found.append((LEVELS[text[1]], text[3:].strip()))
    return found


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def log(stream: io.BytesIO) -> Iterator[logging.Logger]:
    with install_logging(stream):
        yield logging.getLogger("haven_vlm.somewhere")


def test_levels(log: logging.Logger, stream: io.BytesIO) -> None:
    for level in (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "level %d", level)
    assert entries(stream.getvalue()) == [
        ("debug", "level 10"),
        ("info", "level 20"),
        ("warning", "level 30"),
        ("error", "level 40"),
        ("error", "level 50"),
    ]


def test_stashapi_may_rename_level_50_without_harm(log: logging.Logger, stream: io.BytesIO) -> None:
    """stashapi.log turns CRITICAL into PROGRESS; a critical record would move the task's bar."""
    before = logging.getLevelName(50)
    logging.addLevelName(50, "PROGRESS")
    try:
        log.critical("all endpoints are gone")
    finally:
        logging.addLevelName(50, before)
    assert entries(stream.getvalue()) == [("error", "all endpoints are gone")]


def test_strangers_speak_from_warning_on(log: logging.Logger, stream: io.BytesIO) -> None:
    logging.getLogger("urllib3.connectionpool").debug("POST /graphql?apikey=abcdefghijkl")
    logging.getLogger("urllib3.connectionpool").warning("pool is full")
    assert entries(stream.getvalue()) == [("warning", "pool is full")]


def test_several_lines_no_blank_ones(log: logging.Logger, stream: io.BytesIO) -> None:
    log.error("%s", ConfigError("weight: too small\n\n  \nmodel: unknown\r\n"))
    assert entries(stream.getvalue()) == [("error", "weight: too small"), ("error", "| model: unknown")]


def test_traceback_is_dressed_line_by_line(log: logging.Logger, stream: io.BytesIO) -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("could not")
    found = entries(stream.getvalue())
    assert found[0] == ("error", "could not")
    assert found[-1] == ("error", "| ValueError: odd")
    assert {level for level, _ in found} == {"error"}


def test_a_name_cannot_forge_an_entry(log: logging.Logger, stream: io.BytesIO) -> None:
    log.info("scene %s", "a\n\x01e\x02all data lost\rb\x1b[31m\u2028c\x85d\u202egpj.exe")
    found = entries(stream.getvalue())
    assert [level for level, _ in found] == ["info", "info"]
    assert found[1][1] == r"| \x01e\x02all data lost\x0db\x1b[31m\u2028c\x85d\u202egpj.exe"


@given(st.lists(st.text(st.characters(codec=None)), max_size=4), st.sampled_from(["\n", "\r\n", "\x01", ""]))
def test_any_text_gives_entries_of_its_level_only(parts: list[str], glue: str) -> None:
    stream = io.BytesIO()
    handler = StashLogHandler(stream)
    handler.handle(logging.makeLogRecord({"msg": glue.join(parts), "levelno": logging.INFO}))
    assert all(level == "info" and text for level, text in entries(stream.getvalue()))


@pytest.mark.parametrize("char", ["x", "é", "🏀"])
def test_long_lines_are_cut_by_bytes(char: str) -> None:
    (line,) = safe_lines(char * 100_000)
    assert len(line) < MAX_LINE_BYTES + 60 < 64 * 1024
    assert line.decode().endswith("bytes left out")


def test_endless_tracebacks_are_cut_in_the_middle() -> None:
    lines = safe_lines("\n".join(f"line {number}" for number in range(5000)))
    assert len(lines) == 401
    assert (lines[0], lines[200], lines[-1]) == (b"line 0", "| … 4600 lines left out …".encode(), b"| line 4999")


def test_pictures_in_messages_are_shortened() -> None:
    assert safe_lines("bad: 'data:image/jpeg;base64," + "A" * 5000 + "'") == [
        b"bad: 'data:image/jpeg;base64,<5000 characters>'"
    ]


def test_logins_are_starred_known_or_not(stream: io.BytesIO) -> None:
    with install_logging(stream) as display:
        display.hide("", "abc", "s3cret-cookie", "s3cret")
        log = logging.getLogger("haven_vlm.x")
        log.info("abc %s", "with s3cret-cookie and s3cret")
        log.info("GET /scene/1/stream?apikey=eyJhbGciOi.x.y and session=MTc2Njk0NDQxNnxEdi1CQkFF&x")
        log.info("Authorization: Bearer sk-abcdefghijklmnop")
        log.info("api_key_env: LM_STUDIO_KEY")
    assert [text for _, text in entries(stream.getvalue())] == [
        "abc with *** and ***",
        "GET /scene/1/stream?apikey=*** and session=***&x",
        "Authorization: Bearer ***",
        "api_key_env: LM_STUDIO_KEY",
    ]


def test_a_message_that_cannot_be_made_is_still_told(stream: io.BytesIO) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

    handler = StashLogHandler(stream)
    for template, value in (("%s", Odd()), ("%d scenes", "two")):
        handler.handle(logging.makeLogRecord({"msg": template, "args": (value,), "levelno": logging.INFO}))
    found = entries(stream.getvalue())
    assert [level for level, _ in found] == ["info", "info"]
    assert "RuntimeError" in found[0][1] and "%d scenes" in found[1][1]


def test_warnings_and_hooks_and_their_end(stream: io.BytesIO) -> None:
    before = (
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
        warnings.showwarning,
        logging.getLogger().handlers[:],
    )
    with install_logging(stream), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("pay attention", UserWarning, stacklevel=1)
        thread = threading.Thread(target=lambda: 1 / 0, name="reader")
        thread.start()
        thread.join()
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        sys.excepthook(ConfigError, ConfigError("weight: too small"), None)
        sys.excepthook(OSError, OSError("disk"), None)
    after = (
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
        warnings.showwarning,
        logging.getLogger().handlers[:],
    )
    assert after == before
    found = entries(stream.getvalue())
    assert found[0][0] == "warning" and "UserWarning: pay attention" in found[0][1]
    assert ("error", "thread reader ended by an error") in found
    assert ("error", "| ZeroDivisionError: division by zero") in found
    assert found[-4:] == [
        ("warning", "stopped by Ctrl-C"),
        ("error", "weight: too small"),
        ("error", "the connector stopped because of a mistake of its own"),
        ("error", "| OSError: disk"),
    ]


def test_what_a_finaliser_raises_is_told_and_a_thread_may_end_itself(stream: io.BytesIO) -> None:
    class Careless:
        def __del__(self) -> None:
            raise OSError("too late")

    with install_logging(stream):
        careless = Careless()
        del careless
        gc.collect()
        thread = threading.Thread(target=sys.exit, name="reader")
        thread.start()
        thread.join()
    found = entries(stream.getvalue())
    assert found[0][0] == "warning" and found[-1] == ("warning", "| OSError: too late")


async def test_exceptions_nobody_fetched(log: logging.Logger, stream: io.BytesIO) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError("odd")})
    found = entries(stream.getvalue())
    assert found[0] == ("error", "lost")
    assert found[-1] == ("error", "| ValueError: odd")


def test_a_reader_that_went_away_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream, install_logging(stream) as display:
        logging.getLogger("haven_vlm.x").info("one")
        display.progress(0.5)
        logging.getLogger("haven_vlm.x").info("two")


def test_a_closed_stream_ends_nothing() -> None:
    stream = io.BytesIO()
    with install_logging(stream):
        stream.close()
        logging.getLogger("haven_vlm.x").info("one")


class Slow(io.BytesIO):
    """A terminal that takes nothing for a moment."""

    busy = True

    def write(self, data: object) -> int:
        if self.busy:
            raise BlockingIOError(11, "try again")
        return super().write(data)  # type: ignore[arg-type]


def test_a_terminal_that_is_slow_loses_a_line_and_no_more() -> None:
    stream = Slow()
    with install_logging(stream):
        logging.getLogger("haven_vlm.x").info("lost")
        stream.busy = False
        logging.getLogger("haven_vlm.x").info("told")
    assert entries(stream.getvalue()) == [("info", "told")]


def drained(data: bytes, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What becomes of what strangers write to standard error."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as out:
        out.write(data)
    with caplog.at_level(logging.DEBUG, "haven_vlm.stash_log"):
        stash_log._drain(reading)
    return [record.getMessage() for record in caplog.records]


def test_a_line_of_a_stranger_that_never_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert drained(b"no end", caplog) == ["stderr: no end"]
    caplog.clear()
    told = drained(b"first\n\n" + b"x" * (MAX_LINE_BYTES + 5) + b"y", caplog)
    assert told[0] == "stderr: first" and "".join(told[1:]).count("x") == MAX_LINE_BYTES + 5


def test_what_was_left_out_of_a_flood_is_counted_when_the_next_second_comes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([7.0] * 25 + [8.5] * 2)
    monkeypatch.setattr("haven_vlm.stash_log.time.monotonic", lambda: next(seconds))
    told = drained(b"".join(b"line %d\n" % n for n in range(27)), caplog)
    assert told == [
        *(f"stderr: line {n}" for n in range(20)),
        "stderr: 5 more lines",
        "stderr: line 25",
        "stderr: line 26",
    ]


class Dribble(io.RawIOBase):
    """A pipe that takes seven bytes at a time."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.taken += bytes(data)[:7]  # type: ignore[call-overload]
        return min(7, len(data))  # type: ignore[arg-type]


def test_partial_writes_are_finished() -> None:
    pipe = Dribble()
    with install_logging(pipe):  # type: ignore[arg-type]
        logging.getLogger("haven_vlm.x").info("a line that is longer than seven bytes")
    assert entries(pipe.taken) == [("info", "a line that is longer than seven bytes")]


# --- progress -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_stash(stream: io.BytesIO) -> None:
    StashLogHandler(stream).progress(0.25, "12 frames")
    assert entries(stream.getvalue()) == [("progress", "0.2500")]


def test_progress_is_throttled_and_never_falls() -> None:
    clock, shown = Clock(), list[float]()
    progress = ProgressWriter(lambda fraction, _text: shown.append(fraction), every_s=1.0, step=0.01, clock=clock)
    for after_s, fraction in [
        (0, 0.0),
        (0.5, 0.4),
        (1, 0.3),
        (0, 0.2),
        (5, 0.1),
        (1, 0.305),
        (1, float("nan")),
        (0, 2.0),
        (9, 1.0),
    ]:
        clock.now += after_s
        progress(fraction)
    assert shown == [0.0, 0.3, 1.0]


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(allow_nan=True)), max_size=30))
def test_progress_rises_within_bounds(steps: list[tuple[float, float]]) -> None:
    clock, shown = Clock(), list[float]()
    progress = ProgressWriter(lambda fraction, _text: shown.append(fraction), clock=clock)
    for after_s, fraction in steps:
        clock.now += after_s
        progress(fraction)
    assert shown == sorted(set(shown))
    assert all(0 <= fraction <= 1 for fraction in shown)


# --- for people -----------------------------------------------------------------------------------------------


def test_plain_lines(stream: io.BytesIO) -> None:
    with install_logging(stream, plain=True) as display:
        log = logging.getLogger("haven_vlm.x")
        log.debug("not shown")
        log.info("two scenes")
        log.warning("first\nsecond\x1b[2J")
        display.progress(0.0)
        display.progress(0.1, "nothing within the same minute")
    lines = [line[9:] for line in stream.getvalue().decode().splitlines()]
    assert lines == ["two scenes", "warning: first", r"| second\x1b[2J", "0%"]


def test_plain_progress_line_each_minute(stream: io.BytesIO) -> None:
    clock = Clock()
    handler = PlainLogHandler(stream, terminal=False, clock=clock)
    for after_s, fraction in [(0, 0.1), (59, 0.2), (2, 0.3), (1, 0.4), (1, 1.0)]:
        clock.now += after_s
        handler.progress(fraction, "12 of 40 frames")
    lines = [line[9:] for line in stream.getvalue().decode().splitlines()]
    assert lines == ["10% 12 of 40 frames", "30% 12 of 40 frames", "100% 12 of 40 frames"]


def test_bar_on_a_terminal_makes_way_for_lines(stream: io.BytesIO) -> None:
    handler = PlainLogHandler(stream, terminal=True, width=lambda: 40)
    handler.progress(0.5, "20 of 40 frames, about 12 min to go")
    bar = b"[##########..........]  50% 20 of 40 fra"[:39]
    assert stream.getvalue() == bar
    handler.handle(logging.makeLogRecord({"msg": "scene 1 is done", "levelno": logging.INFO}))
    rest = stream.getvalue()[len(bar) :]
    assert rest.startswith(b"\r" + b" " * len(bar) + b"\r")
    assert rest.endswith(b"scene 1 is done\n" + bar)
    handler.progress(1.0)
    assert stream.getvalue().endswith(b"[####################] 100% \n")
    handler.progress(0.5)
    handler.close()
    assert stream.getvalue().endswith(b" \r")


# --- a whole process ------------------------------------------------------------------------------------------


def run(code: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, timeout=60, check=False, env=os.environ | env
    )


def test_nothing_reaches_stderr_undressed() -> None:
    """Prints, children, C code and a crash of our own: all of it becomes entries of Stash's log."""
    done = run(
        """
        import logging, os, subprocess, warnings
        from haven_vlm.stash_log import install_logging, stdout_taken
        with install_logging() as display, stdout_taken() as answer:
            logging.getLogger("haven_vlm.x").info("début 🏀")
            print("a stray print")
            print("another", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os.write(2, b"[h264 @ 0x1] error while decoding MB 1 2\\nno line end")
            os.write(1, b"\\nlibrary on stdout\\n")
            child = "import sys; print('out'); print('err', file=sys.stderr)"
            subprocess.run([sys.executable, "-c", child], check=True)
            warnings.warn("careful")
            display.progress(1)
            answer('{"output": "ok"}')
        """
    )
    assert done.returncode == 0
    assert done.stdout == b'{"output": "ok"}\n'
    found = entries(done.stderr)
    assert {level for level, _ in found} == {"info", "debug", "warning", "progress"}
    for text in ("début 🏀", "stderr: [h264 @ 0x1] error while decoding MB 1 2", "stderr: no line end"):
        assert any(entry == text for _, entry in found), found
    for text in ("a stray print", "another", "library on stdout", "out", "err"):
        assert ("debug", f"stderr: {text}") in found


def test_an_unhandled_exception_in_a_process() -> None:
    done = run(
        """
        import contextlib
        from haven_vlm.stash_log import install_logging
        stack = contextlib.ExitStack()
        stack.enter_context(install_logging())
        raise RuntimeError("odd")
        """
    )
    found = entries(done.stderr)
    assert done.returncode == 1
    assert found[0] == ("error", "the connector stopped because of a mistake of its own")
    assert ("error", "| RuntimeError: odd") in found


def test_floods_of_strangers_are_counted_not_copied() -> None:
    done = run(
        """
        import os
        from haven_vlm.stash_log import install_logging
        with install_logging():
            for number in range(5000):
                os.write(2, b"noise %d\\n" % number)
        """
    )
    found = entries(done.stderr)
    assert len(found) < 2000
    assert any("more lines" in text for _, text in found)


def test_a_crash_in_c_is_told() -> None:
    done = run(
        """
        import ctypes
        from haven_vlm.stash_log import install_logging
        with install_logging():
            ctypes.string_at(0)
        """
    )
    assert done.returncode != 0
    assert b"Current thread" in done.stderr or b"access violation" in done.stderr


def test_stderr_that_nobody_reads_does_not_change_the_exit_code() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import logging
from haven_vlm.stash_log import install_logging, stdout_taken
with install_logging(), stdout_taken() as answer:
    print("noise", file=sys.stderr)
    logging.getLogger("haven_vlm.x").info("hello")
    answer("ok")
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writing, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"ok\n")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be closed under Python there")
def test_closed_descriptors_do_not_become_somebody_elses_file(tmp_path: Path) -> None:
    """With `2>&-` the next file that is opened gets number 2, and a stray line ends up in a database."""
    done = run(
        f"""
        import os
        os.close(2)
        from haven_vlm.stash_log import install_logging, stdout_taken
        with install_logging(), stdout_taken() as answer:
            with open({str(tmp_path / "database")!r}, "wb") as file:
                os.write(2, b"noise\\n")
                os.write(1, b"noise\\n")
                assert file.fileno() > 2
            answer("ok")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"")
    assert (tmp_path / "database").read_bytes() == b""
