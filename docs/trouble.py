"""The page of troubles: what to do, by topic, and every sentence that the code can say, in its topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.sentences import sentences

ROOT = Path(__file__).resolve().parent.parent

_INTRODUCTION = """\
# When something goes wrong

<!-- Made by `python -m docs.generate`: the sentences come from the code, the advice from docs/trouble.py. -->

Start with the task **Check Endpoints**: it tries model servers, settings, Stash, some files, ledger and disk, and says
what to mend. What a task says at its end stands in Stash's log (Settings → Logs) and in its report.

Nothing is lost when a run fails: answers are kept, media that are not finished keep `VLM_TagMe`, and the next run goes
on where this one ended.

Search this page for the sentence you saw; `…` stands for a name, a number or a reason.
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """One section: what to do, and whose sentences belong to it."""

    title: str
    advice: str
    modules: str
    """Names of modules, by spaces; a name that ends in `*` stands for all that begin so."""

    def has(self, module: str) -> bool:
        """Whether the module's sentences belong here."""
        return any(module.startswith(m[:-1]) if m.endswith("*") else module == m for m in self.modules.split())


TOPICS = (
    Topic(
        "It does not start",
        """\
* *Python packages are missing*: the message names the command to run by hand. Stash's Docker image has Python and pip;
  a Python of your own is named in Settings → System → Python executable path.
* *Nothing to do*: the trigger tag is on nothing. Put `VLM_TagMe` on a scene, and start the task again.
* *Another run …*: two tabs, or a task and a cron run. The other one finishes; then start again.
""",
        """bootstrap pip_calls tasks task_context media_task earlier_runs haven_vlm_connector
        command_line stash_wire stash_log selection task_options reporting""",
    ),
    Topic(
        "Settings",
        """\
A mistake is named with its key and the place it came from; all of them at once. The places, the later one winning:
`haven_vlm_config.py`, `haven_vlm_config.yaml`, Stash's settings page, the arguments of a task. All keys:
[settings](settings.md).
""",
        "settings* haven_vlm_config haven_vlm_utility proposal* vocabulary*",
    ),
    Topic(
        "A model server cannot be reached",
        """\
* *nobody answers*: the server is not started, listens on its own machine only (LM Studio: *Serve on Local Network*;
  others: host `0.0.0.0`), the port is another one, or a firewall is in between.
* Stash runs in Docker: `localhost` is the container. Use the address of the machine, or `host.docker.internal`.
* *outside the local network*: see [privacy](privacy.md); `allow_remote: true` on that endpoint if you want it.
* *certificate*: a server of your own with a certificate of its own needs `verify_tls: false`.
""",
        "endpoint_transport endpoint_troubles endpoint_watch privacy outage spending* budgets*",
    ),
    Topic(
        "A model server answers, but not well",
        """\
* *does not see pictures*: a text model is loaded, or (llama.cpp) the `--mmproj` file is missing.
* *thinking took the whole budget*: the model thinks before it answers and cannot be told not to. Choose one that does
  not, or switch thinking off in the server.
* *context*: give the model at least 4,096 tokens for each parallel question, or shorten definitions.
* *neither the JSON asked for nor a plain list*: the model is too weak for the list of tags, or its chat template is
  wrong. Fewer tags and shorter definitions help.
""",
        """endpoint endpoint_faults chat capability model_choice server_survey replies multiplexer pool_member settling
        resilience scheduling stations confidence checking endpoint_check pool_statistics judging several""",
    ),
    Topic(
        "Stash",
        """\
* *login has run out*: Stash's login for tasks ends after an hour. Generate an API key (Settings → Security →
  Authentication); a task finds it by itself.
* *database is busy*: a scan, a generate task or a backup. The connector waits and tries again.
* *no longer tagged*, *no longer in Stash*: you changed it while the run went on. That is fine; yours counts.
""",
        """haven_media_handler stash_* applying undoing undo_task undo_plan marks ownership together batch_writing
        fetching rebuild*""",
    ),
    Topic(
        "A file cannot be read",
        """\
* *is not there. If Stash sees it under another path, set path_mutation*: this machine knows the folder under another
  name. Without a mapping the file is read through Stash, which works but is slower.
* *index (moov) is missing*: the recording or copy was cut off; only the original helps.
* A scene or image whose own file is at fault gets `VLM_Errored` and keeps `VLM_TagMe`; mend the file, take
  `VLM_Errored` off, and run again.
* *the drive or the network hangs*: the run goes on with other files; look after the drive.
""",
        """media opening container decoding reading location framing frame_image picture ffmpeg_cli crew videos images
        galleries image_* media_access stills still_reading zips haven_vlm_engine vlm_engine* likeness tone""",
    ),
    Topic(
        "Ledger, reports and disk",
        """\
* *The disk is full*: free some space and run again; everything answered so far is kept.
* *The ledger was damaged*: it was set aside and a new one begun, with everything that could be read. What is not in it
  any more counts as yours and is never removed.
* *shared memory maps*: the ledger cannot lie on a network share. Set `data_dir` to a folder on a local disk.
""",
        "journal* run_lock own_thread files reports report_* progress lanes live* page*",
    ),
    Topic(
        "Learning from corrections",
        """\
The tasks **Collect Incorrect Markers**, **Find Marker Settings** and **Evaluate** need something to learn from: scenes
that were tagged and then corrected by hand.
""",
        """corrections* collect* flags incorrect* tuning* learning* evidence* settings_file* marker_settings* evaluat*
        fitting* example* few_shot* review* truth*""",
    ),
)

OTHER = Topic("Everything else", "What is said by parts that are new and have no topic yet.\n", "")


def files() -> list[Path]:
    """Every file of the product."""
    return [*sorted((ROOT / "haven_vlm").glob("*.py")), *sorted(ROOT.glob("haven_*.py"))]


def topic_of(module: str) -> Topic:
    """The topic of a module's sentences."""
    return next((t for t in TOPICS if t.has(module)), OTHER)


def trouble_page() -> str:
    """docs/trouble.md."""
    said = {file.stem: found for file in files() if (found := sentences(file))}
    parts = [_INTRODUCTION]
    for topic in (*TOPICS, OTHER):
        if found := [text for module, texts in said.items() if topic_of(module) is topic for text in texts]:
            parts += [f"\n## {topic.title}\n\n{topic.advice}\n", *_listed(found)]
    return "".join(parts)


def _listed(found: Iterable[str]) -> Iterator[str]:
    for text in sorted(set(found), key=str.casefold):
        yield f"- {text.replace('<', '&lt;').replace('*', '&#42;').replace('_', chr(92) + '_')}\n"
