"""The process edge: what Stash (or a person at a shell) starts. All objects are made and closed here.

From Stash: its JSON document on standard input, one JSON object on standard output, its log protocol on standard
error. At a shell: `python haven_vlm_connector.py tag_videos --stash http://nas:9999 --api-key-env STASH_API_KEY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036 # pragma: no cover - what an older Python gets to see first
    sys.stdout.write(json.dumps({"error": "Python 3.11 or newer is needed; this is " + sys.version.split()[0]}) + "\n")
    sys.exit(1)

from haven_vlm import command_line
from haven_vlm.bootstrap import ensure_dependencies
from haven_vlm.command_line import MODES
from haven_vlm.errors import DependencyError, HavenError, LedgerError, WireError
from haven_vlm.exit_codes import ExitCode, code_for
from haven_vlm.live_files import FILES, from_file
from haven_vlm.privacy import redact
from haven_vlm.stash_log import Display, install_logging, stdout_taken
from haven_vlm.stash_wire import Envelope, ProgressWriter, read_envelope, reply

if TYPE_CHECKING:
    from haven_vlm.facts import Example, Term
    from haven_vlm.media_access import OpenVideo
    from haven_vlm.ports import Analyzer
    from haven_vlm.reports import RunReport
    from haven_vlm.settings import EndpointSettings
    from haven_vlm.task_context import TaskResult

ReadEnvelope = Callable[[bytes], Envelope]

log = logging.getLogger("haven_vlm_connector")

_LOOKING = ("tag_videos", "tag_images", "preview", "update", "check_endpoints")
"""Modes that ask about the tag list."""

PLUGIN_DIR = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call."""

    output: str
    """What happened, in words."""
    error: str = ""
    """The same when it is not what was asked; empty when it is."""
    code: ExitCode = ExitCode.DONE
    report: RunReport | None = None
    answer: object = None
    """What the page asked for, instead of words."""


def main(arguments: Sequence[str]) -> int:
    """Run one task; returns the exit code. For Stash: 0 when the run did what was asked, 1 otherwise."""
    if arguments:
        return _at_a_shell(arguments)
    if sys.stdin is not None and sys.stdin.isatty():  # Stash gives a pipe; a person gets help instead of a wait
        command_line.parser().print_help(sys.stderr)
        return ExitCode.WRONG
    with install_logging() as display, stdout_taken() as write:
        outcome = serve(read_envelope, display)
        write(reply(outcome.output if outcome.answer is None else outcome.answer, error=outcome.error or None))
    return ExitCode.FAILED if outcome.error else ExitCode.DONE


def _at_a_shell(arguments: Sequence[str]) -> int:
    options = command_line.parse(arguments)
    loudness = {"verbose": options.verbose, "quiet": options.quiet}
    # first of all: threads that are started before it would not know which signals are held up
    with _stoppable() as stopped_by, install_logging(plain=True, **loudness) as display, stdout_taken() as write:
        outcome = serve(
            lambda _: command_line.envelope(options, os.environ, plugin_dir=PLUGIN_DIR), display, data=b"", told=True
        )
        code = outcome.code
        if code is ExitCode.INTERRUPTED and signal.SIGTERM in stopped_by:
            code = ExitCode.TERMINATED
        display.rest()
        if options.json:
            report = outcome.report.as_json() if outcome.report else None
            write(
                command_line.result_json(
                    mode=options.mode, output=outcome.output, error=outcome.error, code=code, report=report
                )
            )
        elif outcome.error or not options.quiet:
            write(outcome.error or outcome.output)
    return code


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Let SIGTERM end a run as Ctrl-C does: in order. Yields the signals that came.

    A shell script lets what it starts in the background ignore Ctrl-C. asyncio then takes no notice of SIGINT at all,
    so it is held up instead of ignored, until SIGTERM needs it.
    """
    came: list[int] = []
    in_background = os.name == "posix" and signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def end(number: int, _: FrameType | None) -> None:
        came.append(number)
        # asyncio turns SIGINT into a cancelled task
        if in_background:
            os.kill(os.getpid(), signal.SIGINT)  # one with those that were held up; a second one would end it abruptly
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        else:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    if in_background:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield came
    finally:
        if in_background:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Whatever a task writes is for this account alone: reports, pictures and the ledger tell what people watch."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """No search for garbage while modules are imported, nor among what they brought ever after.

    Imports make some 100,000 objects that stay. To look through them again and again is a fifth of the start, and
    would hold up the loop for 40 ms each time that everything is looked through.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def serve(read: ReadEnvelope, display: Display, *, data: bytes | None = None, told: bool = False) -> Outcome:
    """Read what is asked, do it, and say how it went; never raises.

    Args:
        read: makes an envelope of what came.
        display: where progress goes.
        data: what came; None: everything on standard input.
        told: the caller prints the result, so it is not logged.
    """
    try:
        call = read(sys.stdin.buffer.read() if data is None else data)
        if call.mode == "page":
            return _page(call, display)
        if call.mode not in MODES:
            named = f"“{call.mode}” is no task of this plugin" if call.mode else "no task was named"
            raise WireError(f"{named}; args.mode must be one of: {', '.join(MODES)}")
        spare_dir = call.config_dir / "haven_vlm"
        log.debug("packages: %s", ensure_dependencies(PLUGIN_DIR, spare_dir=spare_dir))
        _load_tasks(spare_dir)
        with _private_files():
            result = asyncio.run(_perform(call, display))
    except HavenError as exc:
        return Outcome("", str(exc), code_for(exc))
    except KeyboardInterrupt:
        stopped = "Stopped. What was answered is kept; start the task again to go on."
        return Outcome("", stopped, ExitCode.INTERRUPTED)
    except Exception as exc:
        log.error("Unexpected error", exc_info=exc)
        what = redact(f"{type(exc).__name__}: {exc}")
        told_of = f"Unexpected error ({what}). The log has the details; please report it."
        return Outcome("", told_of, ExitCode.FAILED)
    if not result.ok:
        early = result.report is not None and result.report.ended_because
        # Stash logs an error of the reply by itself, but no output
        return Outcome(result.text, result.text, ExitCode.LATER if early else ExitCode.FAILED, result.report)
    if not told:
        log.info("%s", result.text)
    return Outcome(result.text, report=result.report)


def _load_tasks(spare_dir: Path) -> None:
    """Import what has all packages behind it; those that do not load are replaced by a fresh set.

    Raises:
        DependencyError: the fresh set does not load either, or cannot be had.
    """
    before = set(sys.modules)
    try:
        with _importing():
            importlib.import_module("haven_vlm.tasks")
        return
    except ImportError as exc:  # present, but built for another Python or another system, or damaged
        if (exc.name or "").startswith("haven_"):
            raise  # a part of our own: no package mends that
        log.warning("A Python package does not load (%s); installing a fresh set", exc)
    ensure_dependencies(PLUGIN_DIR, spare_dir=spare_dir, distrust_installed=True)
    # of what was imported until then some is from the set that does not load, or holds parts of it
    for name in set(sys.modules) - before:
        if name.partition(".")[0] not in sys.stdlib_module_names:
            del sys.modules[name]
    try:
        importlib.import_module("haven_vlm.tasks")
    except ImportError as exc:
        raise DependencyError(
            f"The Python packages were installed and still do not load on this machine ({exc}). "
            "docs/platforms.md says which systems have them."
        ) from exc


def _page(call: Envelope, display: Display) -> Outcome:
    """Answer the page in Stash. What goes wrong is part of the answer, so that the page can show the sentence."""
    op = str(call.args.get("op") or "")
    if op in FILES and (there := from_file(op, call.plugin_dir, call.config_dir / "haven_vlm")) is not None:
        return Outcome("", answer=there)
    try:
        ensure_dependencies(PLUGIN_DIR, spare_dir=call.config_dir / "haven_vlm")
        with _private_files():
            return Outcome("", answer=asyncio.run(_operate(call, op, display)))
    except HavenError as exc:
        return Outcome("", answer={"error": str(exc)})
    except Exception as exc:
        log.error("Unexpected error", exc_info=exc)
        what = redact(f"{type(exc).__name__}: {exc}")
        told_of = f"Unexpected error ({what}). The log has the details; please report it."
        return Outcome("", answer={"error": told_of})


async def _operate(call: Envelope, op: str, display: Display) -> object:
    """Make what the operation needs, and no more: somebody looks at a page and waits."""
    with _importing():
        from haven_media_handler import StashLibrary
        from haven_vlm.journal import Journal
        from haven_vlm.page_operations import Desk, empty, operate
        from haven_vlm.vocabulary import with_vocabulary
        from haven_vlm_config import load_settings

    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(StashLibrary(call.connection))
        display.hide(*gateway.secrets)
        page = await gateway.plugin_settings()
        loaded = await asyncio.to_thread(
            load_settings, plugin_dir=call.plugin_dir, config_dir=call.config_dir, page=page, arguments={}
        )
        settings = loaded.settings
        if op not in FILES:
            settings = await with_vocabulary(settings, gateway)
        data_dir = settings.data_dir.expanduser() if settings.data_dir else call.config_dir / "haven_vlm"
        if op in FILES:
            return await asyncio.to_thread(from_file, op, call.plugin_dir, data_dir) or empty(op)
        journal = await stack.enter_async_context(Journal(data_dir / "ledger.sqlite"))

        def open_video() -> OpenVideo:
            from haven_vlm.reading import VideoReader

            return VideoReader

        return await operate(Desk(gateway, settings, journal, open_video), op, call.args)


async def _perform(call: Envelope, display: Display) -> TaskResult:
    """Make all objects in order, run the task, close them in reverse."""
    # only now: bootstrap has made sure that the packages behind these modules are there
    with _importing():
        from haven_media_handler import StashLibrary
        from haven_vlm.checking import with_servers_found
        from haven_vlm.endpoint import HttpEndpoint
        from haven_vlm.endpoint_watch import EndpointWatch
        from haven_vlm.fetching import http_fetch
        from haven_vlm.files import JsonMemory
        from haven_vlm.image_engine import Moments
        from haven_vlm.image_task import still_prompt
        from haven_vlm.journal import Journal
        from haven_vlm.live import LiveFolder
        from haven_vlm.live_runs import entry_of
        from haven_vlm.live_status import LiveStatus
        from haven_vlm.multiplexer import Multiplexer
        from haven_vlm.picture import Preparation
        from haven_vlm.progress import Progress
        from haven_vlm.prompts import build_prompt, build_several_prompt
        from haven_vlm.reading import VideoReader
        from haven_vlm.sampling import make_sampler
        from haven_vlm.settings_file import SettingsFile
        from haven_vlm.task_context import TaskContext
        from haven_vlm.task_options import Options
        from haven_vlm.tasks import TASKS
        from haven_vlm.vocabulary import with_vocabulary
        from haven_vlm_config import YAML_NAME, check_arguments, find_yaml, load_settings, outline_yaml, parse_yaml
        from haven_vlm_engine import BuiltInEngine

    options, arguments = Options.take(call.args)
    check_arguments(arguments)
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(StashLibrary(call.connection))
        display.hide(*gateway.secrets)
        loaded = await asyncio.to_thread(
            load_settings,
            plugin_dir=call.plugin_dir,
            config_dir=call.config_dir,
            page=await gateway.plugin_settings(),
            arguments=arguments,
        )
        if loaded.looks_for_examples and call.mode in _LOOKING:
            log.warning(
                "No tags to look for are set, so the examples are looked for: %s. Write yours into “Tags to look for” "
                "on the plugin's settings page, or into haven_vlm_config.yaml.",
                ", ".join(t.name for t in loaded.settings.tag_list),
            )
        settings = await with_servers_found(await with_vocabulary(loaded.settings, gateway))
        display.hide(*(e.api_key.get_secret_value() for e in settings.endpoints if e.api_key))
        display.hide(*(os.environ.get(e.api_key_env, "") for e in settings.endpoints if e.api_key_env))
        gateway.use_timeout(settings.stash_timeout)
        data_dir = settings.data_dir.expanduser() if settings.data_dir else call.config_dir / "haven_vlm"
        journal = await stack.enter_async_context(Journal(data_dir / "ledger.sqlite"))
        memory = await stack.enter_async_context(JsonMemory(data_dir / "endpoints.json"))
        endpoints = [await stack.enter_async_context(HttpEndpoint(e, memory=memory)) for e in settings.endpoints]
        pool = await stack.enter_async_context(Multiplexer(endpoints, settings, memory=memory, book=journal.spending))

        async def endpoints_now() -> Sequence[EndpointSettings]:
            page = await gateway.plugin_settings()
            now = await asyncio.to_thread(
                load_settings, plugin_dir=call.plugin_dir, config_dir=call.config_dir, page=page, arguments=arguments
            )
            return now.settings.endpoints

        await stack.enter_async_context(EndpointWatch(endpoints_now, pool, loaded.settings.endpoints))
        writer = ProgressWriter(display.progress)
        progress = Progress(lambda pace: writer(pace.fraction, str(pace)))

        preparation = Preparation(max_side_px=settings.image_max_side, jpeg_quality=settings.jpeg_quality)

        def make_analyzer(terms: Sequence[Term], any_model: bool, examples: Sequence[Example]) -> Analyzer:
            if settings.engine == "vlm-engine":
                from haven_vlm.vlm_engine import VlmEngine
                from haven_vlm.vlm_engine_install import python_of

                return VlmEngine(
                    pool=pool,
                    store=journal,
                    progress=progress,
                    make_prompt=lambda some: build_prompt(some, instructions=settings.instructions),
                    terms=terms,
                    settings=settings,
                    preparation=preparation,
                    python=lambda: asyncio.to_thread(python_of, data_dir / "vlm-engine", settings.vlm_engine.python),
                    any_model=any_model,
                )
            return BuiltInEngine(
                pool=pool,
                store=journal,
                make_prompt=lambda some: build_prompt(some, instructions=settings.instructions),
                terms=terms,
                make_sampler=lambda duration_ms, glimpses: make_sampler(settings, duration_ms, glimpses),
                progress=progress,
                needs_survey=settings.sampling == "adaptive",
                terms_at_once=settings.tags_per_question,
                skip_similar=settings.skip_similar_frames,
                any_model=any_model,
                log_frames=settings.log_frames,
                make_several=lambda some, n: build_several_prompt(some, n, instructions=settings.instructions),
                frames_per_question=settings.frames_per_question,
                examples=examples,
                time_limit_ms=settings.max_time_per_scene.ms if settings.max_time_per_scene is not None else None,
            )

        def make_clip_analyzer(terms: Sequence[Term], any_model: bool) -> BuiltInEngine:
            return BuiltInEngine(
                pool=pool,
                store=journal,
                make_prompt=still_prompt(settings),
                terms=terms,
                make_sampler=lambda duration_ms, _: Moments(duration_ms, settings.image_moments),
                progress=Progress(lambda _: None),  # an image counts as one, whatever is in it
                terms_at_once=settings.tags_per_question,
                skip_similar=settings.skip_similar_frames,
                any_model=any_model,
                log_frames=settings.log_frames,
            )

        yaml_file = await asyncio.to_thread(find_yaml, call.plugin_dir, call.config_dir, os.environ)
        fetch = await stack.enter_async_context(http_fetch(verify_tls=call.connection.verify_tls))
        run_id = await journal.start_run(call.mode)
        context = TaskContext(
            settings=settings,
            options=options,
            gateway=gateway,
            journal=journal,
            pool=pool,
            endpoints=endpoints,
            make_analyzer=make_analyzer,
            make_clip_analyzer=make_clip_analyzer,
            fetch=fetch,
            progress=progress,
            show_share=writer,
            preparation=preparation,
            open_video=VideoReader,
            data_dir=data_dir,
            settings_file=SettingsFile(
                yaml_file or call.config_dir / YAML_NAME, spare_dir=data_dir, parse=parse_yaml, outline=outline_yaml
            ),
            stash_version=gateway.version,
            login_ages=gateway.login_ages,
            mode=call.mode,
            run_id=run_id,
        )
        live = await asyncio.to_thread(LiveFolder, call.plugin_dir, data_dir)
        dead = {run.id: run.started_at for run in await journal.runs() if run.ended_at is None and not run.alive}
        await asyncio.to_thread(live.enter_killed, dead)
        began, started = context.clock(), context.now().isoformat(timespec="seconds")
        result, ok, done = "stopped", False, None
        try:
            async with LiveStatus(
                live,
                mode=call.mode,
                run_id=run_id,
                started=started,
                progress=progress,
                statistics=pool.statistics,
                endpoints=endpoints,
            ) as status:
                done = await TASKS[call.mode](context)
                result, ok = done.text, done.ok
                status.ended(ok=ok, message=done.text.splitlines()[0])
            return done
        except HavenError as exc:
            result = str(exc)
            raise
        finally:
            html = done.html if done else None
            served = await asyncio.to_thread(live.add_report, html) if html else None
            entry = entry_of(
                run_id=run_id,
                mode=call.mode,
                started=started,
                seconds=context.clock() - began,
                ok=ok,
                text=result,
                report=done.report if done else None,
                served=served,
                file=str(html or ""),
            )
            await asyncio.to_thread(live.add_run, entry)
            if done and done.check:
                await asyncio.to_thread(live.write_check, done.check)
            try:
                await journal.end_run(run_id, result.partition("\n")[0])
            except LedgerError as exc:  # a full disk, most likely: what came of the task matters more
                log.warning("That this run is over could not be entered: %s", exc)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
