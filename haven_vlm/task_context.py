"""What every task is given and gives back, and what several of them ask about it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Example, Kind, Term
from haven_vlm.journal import Journal
from haven_vlm.media_access import OpenVideo
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.page_data import CheckResult
from haven_vlm.picture import Preparation
from haven_vlm.pool_ports import VisionEndpoint
from haven_vlm.ports import Analyzer, FetchBytes
from haven_vlm.progress import Progress
from haven_vlm.reports import RunReport
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections, StashTasks
from haven_vlm.task_options import Options
from haven_vlm_utility import count_text

if TYPE_CHECKING:
    from haven_vlm.learning import ConfigFile, Learning


@dataclass(frozen=True, slots=True)
class TaskContext:
    """All that a task works with; made and closed by the connector."""

    settings: Settings
    options: Options
    gateway: StashTasks
    journal: Journal
    pool: Multiplexer
    endpoints: Sequence[VisionEndpoint]
    """Those that the settings name."""
    make_analyzer: Callable[[Sequence[Term], bool, Sequence[Example]], Analyzer]
    """Vocabulary; whether answers of any model count as known; examples that models may be shown."""
    make_clip_analyzer: Callable[[Sequence[Term], bool], Analyzer]
    """The same for clips among the images: a few moments of each, and the wording for stills."""
    fetch: FetchBytes
    progress: Progress
    show_share: Callable[[float, str], None]
    """For tasks that work on no media: the share that is done, 0 to 1, and what is being done."""
    preparation: Preparation
    open_video: OpenVideo
    data_dir: Path
    settings_file: ConfigFile
    stash_version: str
    mode: str
    run_id: int
    login_ages: bool = False
    """Stash knows us by a session that ends some time after its last use, not by a key."""
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = field(default=lambda: datetime.now().astimezone())


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What the user is told, and whether the task did what was asked."""

    text: str
    ok: bool
    report: RunReport | None = None
    """Of the tasks that work on media."""
    html: Path | None = None
    """Its HTML file."""
    check: CheckResult | None = None
    """Of Check Endpoints."""


Task = Callable[[TaskContext], Awaitable[TaskResult]]


def terms_of(settings: Settings) -> tuple[Term, ...]:
    """The vocabulary as the model sees it."""
    return tuple(Term(t.name, t.definition, t.aliases) for t in settings.tag_list)


ALL_KINDS = (Kind.SCENE, Kind.IMAGE, Kind.GALLERY)
"""What a task works on that is not about one kind."""


def kind_of_ids(options: Options, kinds: Sequence[Kind]) -> Kind:
    """What the numbers mean that the user gave.

    Raises:
        ConfigError: a kind that this task does not work on.
    """
    kind = options.kind or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"The arguments of the task are wrong: kind: this task works on {listed(kinds, 'and')}")
    return kind


def listed(kinds: Sequence[Kind], last: str) -> str:
    """'scenes, images and galleries', or 'scene, image or gallery'."""
    words = [count_text(2, str(k)).split(" ")[1] if last == "and" else str(k) for k in kinds]
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


async def vr_tag_id_of(gateway: StashCollections) -> str:
    """Id of the tag that Stash's settings (Interface) name for VR scenes; empty if they name none, or it is gone."""
    name = await gateway.ui_setting("vrTag")
    tag = await gateway.find_tag(name.strip()) if isinstance(name, str) and name.strip() else None
    return tag.id if tag is not None else ""


async def learning_of(context: TaskContext) -> Learning:
    """What the tasks that learn from the user's markers need."""
    from haven_vlm.learning import Learning  # only now: the other tasks start sooner

    return Learning(
        settings=context.settings,
        gateway=context.gateway,
        journal=context.journal,
        file=context.settings_file,
        preparation=context.preparation,
        vr_tag_id=await vr_tag_id_of(context.gateway),
        data_dir=context.data_dir,
        now=context.now,
        show=lambda share: context.show_share(share, "learning from your markers"),
        ids=context.options.ids,
        limit=context.options.limit,
    )
