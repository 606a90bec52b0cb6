"""The connector as a command, for cron, batch runs and other machines: what may stand behind its name.

Nothing here needs more than the standard library: it runs before the packages are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from haven_vlm.errors import ConfigError
from haven_vlm.exit_codes import ExitCode
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_wire import Envelope, plain

log = logging.getLogger(__name__)

MODES = {
    "tag_videos": "look at the scenes tagged VLM_TagMe, and write tags and markers",
    "tag_images": "look at the images tagged VLM_TagMe, and at those of tagged galleries, and write tags",
    "preview": "the same, but only report what would be written",
    "update": "apply changed settings to what is tagged VLM_UpdateMe; asks only about new tags",
    "undo": "take back what the last run wrote, except what was changed since",
    "find_marker_settings": "look for settings that fit the markers you set by hand, and propose them; asks nothing",
    "evaluate": "measure how right each model is, by the markers you went through; asks nothing",
    "collect_incorrect_markers": "keep pictures of what was flagged VLM_Incorrect, removed or moved, to learn from",
    "check_endpoints": "try the model servers, the settings and the connection to Stash; writes nothing",
}
"""Mode → what it does, for the help text. The modes a task of Stash can name are the same."""


_EXAMPLES = """\
examples:
  first of all, see whether everything is in reach:
    %(prog)s check_endpoints --stash http://localhost:9999

  every night from cron, quiet unless something goes wrong:
    %(prog)s tag_videos --stash http://nas:9999 --api-key-env STASH_API_KEY --quiet

  this machine knows the folder /data of Stash's container as /mnt/videos (what is not found here is read
  through Stash, which is slower):
    %(prog)s tag_videos --stash http://nas:9999 --map /data=/mnt/videos

  the fifty newest scenes that have not been looked at, but for some:
    %(prog)s tag_videos --stash http://nas:9999 --select untagged --order newest --limit 50 \\
      --skip-organized --skip-tag Private --skip-studio "Some Studio" --skip-path /data/archive

  two model servers, the fast one with more of the work; two tags; the first ten scenes; write nothing:
    %(prog)s preview --stash http://nas:9999 --limit 10 --tags "Foul, Dunk" \\
      --endpoint "http://gpu:8080/v1 weight=5" --endpoint "http://mac:1234/v1 weight=2"

  for another program: one JSON object, with the report of the run in it:
    %(prog)s tag_images --stash http://nas:9999 --json 2>>haven.log"""

_NOTES = """\
Settings come from haven_vlm_config.yaml (beside the plugin, or in --config-dir), from Stash's settings page and,
winning over both, from this command. Progress and log lines go to standard error: a bar on a terminal, a line a
minute elsewhere. The result goes to standard output. Only one run works on a scene at a time, and a run that is
stopped or killed loses nothing: start it again. docs/command-line.md has examples for cron and systemd."""


_LOOKING = ("tag_videos", "tag_images", "preview")
_OF_MODES: Mapping[str, tuple[str, ...]] = {
    "--ids": (*_LOOKING, "update", "undo", "find_marker_settings", "evaluate"),
    "--kind": (*_LOOKING, "update", "undo"),
    "--limit": (*_LOOKING, "update", "find_marker_settings", "evaluate"),
    "--everything": ("update", "undo"),
    "--apply": ("find_marker_settings",),
    "--run": ("undo",),
} | dict.fromkeys(("--select", "--skip-organized", "--skip-tag", "--skip-path", "--skip-studio", "--order"), _LOOKING)
"""Option → the modes in which it does something. What is not here does something in all of them."""

_APART: Mapping[str, tuple[str, ...]] = {
    "--ids": ("--everything", "--select", "--skip-organized", "--skip-tag", "--skip-path", "--skip-studio", "--order"),
    "--run": ("--everything",),
    "--apply": ("--ids", "--limit"),
}
"""Option → those that say something else about the same thing: one of the two would be ignored."""


def _mistake(options: argparse.Namespace) -> str:
    """Options that would be ignored, as a sentence; '' if there are none."""
    given = [o for o in _OF_MODES if getattr(options, o[2:].replace("-", "_")) not in (None, False, [])]
    told = [
        f"{option} goes with {' and '.join(_OF_MODES[option])}, not with {options.mode}"
        for option in given
        if options.mode not in _OF_MODES[option]
    ]
    apart = [(one, other) for one in _APART for other in _APART[one] if {one, other} <= {*given}]
    told += [f"{one} and {other} do not go together" for one, other in apart]
    return "; ".join(told)


class _Parser(argparse.ArgumentParser):
    arguments: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        if "--json" in self.arguments:
            mode = next((m for m in map(_mode, self.arguments) if m in MODES), "")
            print(result_json(mode=mode, output="", error=message, code=ExitCode.WRONG, report=None))  # noqa: T201
        # the whole usage is a screen long, and the mistake would drown in it
        self.exit(ExitCode.WRONG, f"{self.prog}: {message}\nTry: python {self.prog} --help\n")


def _version() -> str:
    """Of the plugin, as its manifest says, and of what it runs on."""
    manifest = Path(__file__).resolve().parent.parent / "ahavenvlmconnector.yml"
    text = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""  # somebody may have copied the code alone
    found = re.search(r"^version: *(\S+)", text, re.M)
    return f"A Haven VLM Connector {found[1] if found else '?'} (Python {platform.python_version()})"


def parser() -> _Parser:
    """Everything that may stand on the command line, with its help."""
    width = max(map(len, MODES))
    modes = "\n".join(f"  {mode:<{width}}  {text}" for mode, text in MODES.items())
    codes = "\n".join(f"  {code:>3}  {code.meaning}" for code in ExitCode)
    program = "haven_vlm_connector.py"
    examples = _EXAMPLES % {"prog": f"python {program}"}
    made = _Parser(
        prog=program,
        usage="python %(prog)s MODE --stash URL [options]",
        description=f"Tags and markers for Stash, by vision-language models on your own machines.\n\nmodes:\n{modes}",
        epilog=f"{examples}\n\nexit codes:\n{codes}\n\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("mode", type=_mode, choices=MODES, metavar="MODE", help="what to do: one of those above")
    made.add_argument("--version", action="version", version=_version(), help="print the version and end")
    _add_connection(made.add_argument_group("Stash"))
    _add_work(made.add_argument_group("what to work on"))
    _add_selection(made.add_argument_group("which of them, for tag_videos, tag_images and preview"))
    _add_settings(made.add_argument_group("settings of this run"))
    _add_output(made.add_argument_group("output"))
    return made


def _mode(text: str) -> str:
    return text.replace("-", "_")


def _add_connection(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--stash", required=True, metavar="URL", help="address of Stash, such as http://nas:9999")
    key = group.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds Stash's API key")
    key.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds it, readable by you alone")
    group.add_argument(
        "--any-certificate", action="store_true", help="take a certificate of Stash that cannot be verified"
    )


def _add_work(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ids", help="work on these scenes or images (numbers, separated by commas) instead of the tagged ones"
    )
    group.add_argument("--kind", choices=("scene", "image", "gallery"), help="what the numbers of --ids mean")
    group.add_argument("--limit", type=int, metavar="N", help="work on so many media at most")
    group.add_argument("--everything", action="store_true", help="update: all media tagged before; undo: all runs")
    group.add_argument("--apply", action="store_true", help="find_marker_settings: put the proposal into effect")
    group.add_argument("--run", type=int, metavar="N", help="undo: this run instead of the last")


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--select", choices=("tagged", "untagged"),
        help="untagged: everything that has not been looked at yet, but for what is skipped; tagged (default): what "
        "carries VLM_TagMe",
    )  # fmt: skip
    group.add_argument("--skip-organized", action="store_true", help="leave out what is marked as organised")
    group.add_argument(
        "--skip-tag", action="append", default=[], metavar="NAME", help="leave out what has this tag; repeatable"
    )
    group.add_argument(
        "--skip-path", action="append", default=[], metavar="FOLDER",
        help="leave out what lies in this folder, as Stash names it; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--skip-studio", action="append", default=[], metavar="NAME",
        help="leave out this studio and those below it; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--order",
        choices=("oldest", "newest", "shortest"),
        help="what comes first; with --limit also what comes at all",
    )


def _selection(options: argparse.Namespace) -> dict[str, object]:
    """The selection as settings.

    Raises:
        ConfigError: something is to be left out of what was tagged by hand.
    """
    chosen: dict[str, object] = {"select": options.select, "select_order": options.order}
    chosen |= {"skip_tags": options.skip_tag, "skip_paths": options.skip_path, "skip_studios": options.skip_studio}
    if options.skip_organized:
        chosen["skip_organized"] = True
    skipping = [f"--{key[:-1].replace('_', '-')}" for key in ("skip_tags", "skip_paths", "skip_studios") if chosen[key]]
    skipping += ["--skip-organized"] if options.skip_organized else []
    if skipping and options.select == "tagged":
        raise ConfigError(f"{', '.join(skipping)}: what you tagged by hand is never skipped; use --select untagged")
    if skipping and options.select is None:
        chosen["select"] = "untagged"
    return {key: value for key, value in chosen.items() if value}


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--endpoint", action="append", default=[], metavar="TEXT",
        help="a model server: its address up to /v1, then any of name=, model=, weight=, max=, key_env=, fallback, "
        "remote; repeatable, and then these are all that are asked",
    )  # fmt: skip
    group.add_argument("--tags", metavar="NAMES", help="what to look for, separated by commas")
    group.add_argument(
        "--map", action="append", default=[], metavar="THEIRS=OURS", type=_mapping,
        help="a folder as Stash names it, and the same folder as this machine does; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of docs/settings.md; repeatable"
    )
    group.add_argument(
        "--config-dir", type=Path, metavar="DIR",
        help="folder of haven_vlm_config.yaml and of the data (default: the configuration folder of the Stash whose "
        "plugin folder this is in, else ~/.haven_vlm)",
    )  # fmt: skip


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--json", action="store_true", help="print one JSON object: mode, ok, exit_code, output, error, report"
    )
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument(
        "--quiet", action="store_true", help="no progress, no result and no log unless something is wrong"
    )
    loudness.add_argument("--verbose", action="store_true", help="log debug messages, too")


def _mapping(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not equals or not theirs.strip() or not ours.strip():
        raise argparse.ArgumentTypeError(f"“{text}” must be FOLDER-IN-STASH=FOLDER-HERE")
    return theirs.strip(), ours.strip()


def envelope(options: argparse.Namespace, environ: Mapping[str, str], *, plugin_dir: Path) -> Envelope:
    """What Stash would have sent, made from the command line.

    Args:
        options: what `parser` made of the arguments.
        environ: environment variables; one of them may hold the API key.
        plugin_dir: absolute folder of the plugin.

    Raises:
        ConfigError: an address, a key or a setting is not what it should be.
    """
    return Envelope(
        connection=StashConnection.from_url(
            options.stash,
            api_key=_api_key(options, environ),
            verify_tls=False if options.any_certificate else None,
        ),
        plugin_dir=plugin_dir,
        config_dir=options.config_dir.expanduser().absolute() if options.config_dir else config_dir_of(plugin_dir),
        mode=options.mode,
        args=_arguments(options),
    )


def _api_key(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    key = ""
    if options.api_key_env:
        key = environ.get(options.api_key_env, "").strip()
        if not key:
            raise ConfigError(f"--api-key-env: the environment variable {options.api_key_env} is not set")
    elif options.api_key_file:
        file: Path = options.api_key_file.expanduser()
        try:
            key = file.read_text(encoding="utf-8-sig").strip()
            open_to = stat.S_IMODE(file.stat().st_mode) & 0o077 if os.name == "posix" else 0
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"--api-key-file: {options.api_key_file} cannot be read: {exc}") from None
        if not key:
            raise ConfigError(f"--api-key-file: {options.api_key_file} is empty")
        if open_to:
            log.warning(
                "--api-key-file: other accounts may open %s, and who has the key has your Stash; chmod 600 %s makes it "
                "yours alone.",
                file,
                shlex.quote(str(file)),
            )
    return key


def _arguments(options: argparse.Namespace) -> dict[str, object]:
    """Arguments of the task, as Stash would hand them over; what is named by itself wins over `--set`."""
    arguments: dict[str, object] = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"\s*\w+\s*", name):
            raise ConfigError("--set needs KEY=VALUE, with a key of docs/settings.md")
        arguments[name.strip().lower()] = value.strip()
    for name in ("ids", "kind", "limit", "run"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    for name in ("everything", "apply"):
        if getattr(options, name):
            arguments[name] = True
    if options.endpoint:
        arguments["endpoints"] = "; ".join(options.endpoint)
    if options.tags is not None:
        arguments["tag_list"] = options.tags
    arguments |= _selection(options)
    if options.map:
        arguments["path_mutation"] = dict(options.map)
    return arguments


def config_dir_of(plugin_dir: Path) -> Path:
    """Where the settings and the data of a command lie unless it says so: with those of the tasks in Stash.

    That is Stash's configuration folder when the plugin is installed there (`<folder>/plugins/…`), because two
    ledgers of one library would know nothing of each other; else a folder of the user's.

    Raises:
        ConfigError: there is neither.
    """
    for folder in plugin_dir.parents:
        if (folder / "config.yml").is_file() and plugin_dir.relative_to(folder).parts[0] == "plugins":
            return folder
    try:
        return Path.home() / ".haven_vlm"
    except RuntimeError as exc:
        raise ConfigError("This account has no home folder; say with --config-dir where the data shall be") from exc


def result_json(*, mode: str, output: str, error: str, code: int, report: str | None) -> str:
    """The one JSON object of `--json`, on one line.

    Args:
        mode: which task.
        output: what happened, in words.
        error: what was not done, in words; '' when all was.
        code: the exit code.
        report: the report of the run as JSON, for the modes that make one.
    """
    body: dict[str, Any] = {"mode": mode, "ok": not error, "exit_code": code, "output": output}
    if error:
        body["error"] = error
    if report is not None:
        body["report"] = json.loads(report)
    return json.dumps(plain(body), ensure_ascii=True, allow_nan=False)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: it is wrong (code 2), or only asked for help (code 0); what there is to say was said.
    """
    made = parser()
    made.arguments = arguments
    options = made.parse_args(arguments)
    if mistake := _mistake(options):
        made.error(mistake)
    return options
