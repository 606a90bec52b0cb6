"""The process edge: what Stash (or a person at a shell) starts. All objects are made and closed here.

From Stash: its JSON document on standard input, one JSON object on standard output, its log protocol on standard
error. At a shell: `python haven_vlm_connector.py tag_videos --stash http://nas:9999 --api-key-env STASH_API_KEY`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036 - what an older Python gets to see first
    sys.stdout.write(json.dumps({"error": "Python 3.11 or newer is needed; this is " + sys.version.split()[0]}) + "\n")
    sys.exit(1)

from haven_vlm.bootstrap import REQUIREMENTS, ensure_dependencies
from haven_vlm.errors import ConfigError, HavenError, WireError
from haven_vlm.privacy import redact
from haven_vlm.stash_log import Display, install_logging, stdout_taken
from haven_vlm.stash_wire import Envelope, ProgressWriter, read_envelope, reply

if TYPE_CHECKING:
    from haven_vlm.facts import Term
    from haven_vlm.tasks import TaskResult

ReadEnvelope = Callable[[bytes], Envelope]

log = logging.getLogger("haven_vlm_connector")

BEHIND_TASKS = frozenset({r.import_name for r in REQUIREMENTS})
"""Packages that are imported anew when a fresh set was installed."""

PLUGIN_DIR = Path(__file__).resolve().parent

MODES = {
    "tag_videos": "look at the scenes tagged VLM_TagMe, and write tags and markers",
    "tag_images": "look at the images tagged VLM_TagMe, and at those of tagged galleries, and write tags",
    "preview": "the same, but only report what would be written",
    "update": "apply changed settings to the scenes tagged VLM_UpdateMe; asks only about new tags",
    "undo": "take back what the last run wrote, except what was changed since",
    "check_endpoints": "try the model servers, the settings and the connection to Stash",
}
"""Mode → what it does, for the help text."""


def main(arguments: Sequence[str]) -> int:
    """Run one task; returns the exit code: 0 when the run did what was asked, 1 otherwise, 2 for a wrong command."""
    if arguments:
        return _at_a_shell(arguments)
    with install_logging() as display, stdout_taken() as write:
        output, error = serve(read_envelope, display)
        write(reply(output, error=error or None))
    return 1 if error else 0


def _at_a_shell(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    with install_logging(plain=True, verbose=options.verbose) as display, stdout_taken() as write:
        output, error = serve(lambda _: _envelope(options, os.environ), display, data=b"")
        if options.json:
            write(reply(output, error=error or None))
        else:
            write(error or output)
    return 1 if error else 0


def _parser() -> argparse.ArgumentParser:
    modes = "\n".join(f"  {mode:<16} {text}" for mode, text in MODES.items())
    parser = argparse.ArgumentParser(
        prog="haven_vlm_connector.py",
        description="Tags and markers for Stash, by vision-language models on your own machines.",
        epilog=f"modes:\n{modes}\n\nexit codes: 0 all done, 1 something failed (the text says what), 2 wrong command",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=MODES, metavar="MODE", help="what to do; see below")
    parser.add_argument("--stash", required=True, metavar="URL", help="address of Stash, such as http://nas:9999")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds Stash's API key")
    parser.add_argument(
        "--ids", help="work on these scenes or images (numbers, separated by commas) instead of the tagged ones"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="work on so many scenes at most")
    parser.add_argument("--everything", action="store_true", help="update: all scenes tagged before; undo: all runs")
    parser.add_argument("--run", type=int, metavar="N", help="undo: this run instead of the last")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in docs/settings.md; repeatable"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=PLUGIN_DIR, metavar="DIR",
        help="folder of haven_vlm_config.yaml and of the data (default: the plugin's)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="log debug messages, too")
    return parser


def _envelope(options: argparse.Namespace, environ: Mapping[str, str]) -> Envelope:
    """What Stash would have sent, made from the command line."""
    from haven_vlm.stash_address import StashConnection

    key = ""
    if options.api_key_env:
        key = environ.get(options.api_key_env, "")
        if not key:
            raise ConfigError(f"--api-key-env: the environment variable {options.api_key_env} is not set")
    arguments: dict[str, object] = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError("--set needs KEY=VALUE")
        arguments[name.strip()] = value
    for name in ("ids", "limit", "run"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    if options.everything:
        arguments["everything"] = True
    return Envelope(
        connection=StashConnection.from_url(options.stash, api_key=key),
        plugin_dir=PLUGIN_DIR,
        config_dir=options.config_dir.absolute(),
        mode=options.mode,
        args=arguments,
    )


def serve(read: ReadEnvelope, display: Display, *, data: bytes | None = None) -> tuple[str, str]:
    """Read what is asked, do it, and say how it went; never raises.

    Returns:
        (output, error): what happened in words, and the same as an error if it is not what was asked.
    """
    try:
        call = read(sys.stdin.buffer.read() if data is None else data)
        if call.mode not in MODES:
            named = f"“{call.mode}” is no task of this plugin" if call.mode else "no task was named"
            raise WireError(f"{named}; args.mode must be one of: {', '.join(MODES)}")
        spare_dir = call.config_dir / "haven_vlm"
        log.debug("packages: %s", ensure_dependencies(PLUGIN_DIR, spare_dir=spare_dir))
        try:
            importlib.import_module("haven_vlm.tasks")  # needs all packages behind it
        except ImportError as exc:  # present, but built for another system, or damaged
            if (exc.name or "").startswith("haven_"):
                raise  # a part of our own: no package mends that
            log.warning("A Python package does not load (%s); installing a fresh set", exc)
            ensure_dependencies(PLUGIN_DIR, spare_dir=spare_dir, distrust_installed=True)
            for name in [n for n in sys.modules if n.partition(".")[0] in BEHIND_TASKS]:
                del sys.modules[name]
        result = asyncio.run(_perform(call, display))
    except HavenError as exc:
        return "", str(exc)
    except KeyboardInterrupt:
        return "", "Stopped. What was answered is kept; start the task again to go on."
    except Exception as exc:
        log.error("Unexpected error", exc_info=exc)
        what = redact(f"{type(exc).__name__}: {exc}")
        return "", f"Unexpected error ({what}). The log has the details; please report it."
    if not result.ok:
        return result.text, result.text  # Stash logs an error of the reply by itself, but no output
    log.info("%s", result.text)
    return result.text, ""


async def _perform(call: Envelope, display: Display) -> TaskResult:
    """Make all objects in order, run the task, close them in reverse."""
    # only now: bootstrap has made sure that the packages behind these modules are there
    from haven_media_handler import StashLibrary
    from haven_vlm.checking import with_servers_found
    from haven_vlm.endpoint import HttpEndpoint
    from haven_vlm.fetching import http_fetch
    from haven_vlm.files import JsonMemory
    from haven_vlm.image_engine import Moments
    from haven_vlm.image_task import still_prompt
    from haven_vlm.journal import Journal
    from haven_vlm.multiplexer import Multiplexer
    from haven_vlm.picture import Preparation
    from haven_vlm.progress import Progress
    from haven_vlm.prompts import build_prompt
    from haven_vlm.reading import VideoReader
    from haven_vlm.sampling import make_sampler
    from haven_vlm.tasks import TASKS, Options, TaskContext
    from haven_vlm_config import load_settings
    from haven_vlm_engine import BuiltInEngine

    options, arguments = Options.take(call.args)
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(StashLibrary(call.connection))
        display.hide(*gateway.secrets)
        settings = load_settings(
            plugin_dir=call.plugin_dir,
            config_dir=call.config_dir,
            page=await gateway.plugin_settings(),
            arguments=arguments,
        ).settings
        settings = await with_servers_found(settings)
        display.hide(*(e.api_key.get_secret_value() for e in settings.endpoints if e.api_key))
        display.hide(*(os.environ.get(e.api_key_env, "") for e in settings.endpoints if e.api_key_env))
        gateway.use_timeout(settings.stash_timeout)
        data_dir = settings.data_dir.expanduser() if settings.data_dir else call.config_dir / "haven_vlm"
        journal = await stack.enter_async_context(Journal(data_dir / "ledger.sqlite"))
        memory = JsonMemory(data_dir / "endpoints.json")
        endpoints = [await stack.enter_async_context(HttpEndpoint(e, memory=memory)) for e in settings.endpoints]
        pool = await stack.enter_async_context(Multiplexer(endpoints, settings, memory=memory))
        writer = ProgressWriter(display.progress)
        progress = Progress(lambda pace: writer(pace.fraction, str(pace)))

        def make_analyzer(terms: Sequence[Term], any_model: bool) -> BuiltInEngine:
            return BuiltInEngine(
                pool=pool,
                store=journal,
                make_prompt=lambda some: build_prompt(some, instructions=settings.instructions),
                terms=terms,
                make_sampler=lambda duration_ms, glimpses: make_sampler(settings, duration_ms, glimpses),
                progress=progress,
                needs_survey=settings.sampling == "adaptive",
                skip_similar=settings.skip_similar_frames,
                any_model=any_model,
                log_frames=settings.log_frames,
            )

        def make_clip_analyzer(terms: Sequence[Term], any_model: bool) -> BuiltInEngine:
            return BuiltInEngine(
                pool=pool,
                store=journal,
                make_prompt=still_prompt(settings),
                terms=terms,
                make_sampler=lambda duration_ms, _: Moments(duration_ms, settings.image_moments),
                progress=Progress(lambda _: None),  # an image counts as one, whatever is in it
                skip_similar=settings.skip_similar_frames,
                any_model=any_model,
                log_frames=settings.log_frames,
            )

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
            preparation=Preparation(max_side_px=settings.image_max_side, jpeg_quality=settings.jpeg_quality),
            open_video=VideoReader,
            data_dir=data_dir,
            stash_version=gateway.version,
            mode=call.mode,
            run_id=run_id,
        )
        result = "stopped"
        try:
            done = await TASKS[call.mode](context)
            result = done.text.splitlines()[0]
            return done
        except HavenError as exc:
            result = str(exc)
            raise
        finally:
            await journal.end_run(run_id, result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
