"""A finished run as data and as words: per medium, per endpoint, per cause. Pure."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from haven_vlm.facts import Kind, Span
from haven_vlm.pool_ports import PoolStatistics
from haven_vlm_utility import clock_text, count_text, duration_text

_MOST_CAUSES = 8
"""Causes the summary names; the report names all."""


class Status(StrEnum):
    """How a medium fared."""

    TAGGED = "tagged"
    """Analysed and written (or planned, in a preview)."""
    INCOMPLETE = "incomplete"
    """Too many frames were not analysed; nothing written, trigger tag kept."""
    ERRORED = "errored"
    """The medium itself is at fault; marked so, trigger tag kept."""
    FAILED = "failed"
    """Something around it failed (unreachable file, Stash, outage); trigger tag kept."""
    SKIPPED = "skipped"
    """Not worked on: gone, no longer marked, or another run has it."""


@dataclass(frozen=True, slots=True)
class MediumReport:
    """What happened to one medium."""

    kind: Kind
    id: str
    title: str
    status: Status
    reason: str = ""
    """A sentence, when there is something to say."""
    cause: str = ""
    """The reason without numbers and names, by which media are counted; empty: the reason itself."""
    tags: tuple[str, ...] = ()
    """Tags the medium got from us, as they are called in Stash."""
    spans: tuple[Span, ...] = ()
    samples: int = 0
    coverage: float = 0.0
    asked: int = 0
    reused: int = 0
    inherited: int = 0
    left_network: int = 0
    markers_created: int = 0
    markers_removed: int = 0
    kept_for_user: int = 0
    """Things of ours that the user has made theirs, and that were left alone."""
    problems: Mapping[str, int] = field(default_factory=dict)
    is_unfinished: bool = False
    """Its time was up (`max_time_per_scene`): what it got is from what was known by then; the next run goes on."""

    @property
    def line(self) -> str:
        """One line for the log."""
        name = f"{self.kind} {self.id}" + (f" “{self.title}”" if self.title else "")
        if self.status is not Status.TAGGED:
            return f"{name}: {self.status} – {self.reason}" if self.reason else f"{name}: {self.status}"
        counted = [count_text(self.asked, "question")]
        if self.reused:
            counted.append(f"{self.reused} known")
        if self.inherited:
            counted.append(f"{self.inherited} alike")
        if self.is_unfinished:
            counted.append("its time was up, the next run goes on")
        what = ", ".join(self.tags) or "no tag applies"
        markers = f", {count_text(len(self.spans), 'marker')}" if self.spans else ""
        return f"{name}: {what}{markers} ({', '.join(counted)})"


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What became of the media of a run, and why it ended early if it did."""

    media: tuple[MediumReport, ...]
    ended_because: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """What happened in one run."""

    mode: str
    run_id: int
    started: str
    """ISO 8601 with offset."""
    seconds: float
    media: tuple[MediumReport, ...]
    pool: PoolStatistics | None = None
    ended_because: str = ""
    """Why the run ended early, in words; empty when it did everything."""
    written: bool = True
    """False for a preview."""
    selected: int | None = None
    """Media the run was about; None: those in `media`."""

    @property
    def counts(self) -> Counter[Status]:
        """Media by status."""
        return Counter(m.status for m in self.media)

    def summary(self) -> str:
        """A few lines for the user: what was done, what was not and why."""
        asked = sum(m.asked for m in self.media)
        reused = sum(m.reused for m in self.media)
        inherited = sum(m.inherited for m in self.media)
        # the pool knows also of frames whose answer never came, or whose medium failed afterwards
        left = self.pool.left_network if self.pool else sum(m.left_network for m in self.media)
        counts = self.counts
        kinds = Counter(str(m.kind) for m in self.media)
        noun = next(iter(kinds)) if len(kinds) == 1 else "medium" if kinds else "scene"
        what = count_text(max(self.selected or 0, len(self.media)), noun)
        if len(kinds) > 1:
            what += f" ({', '.join(count_text(n, kind) for kind, n in kinds.items())})"
        done = counts[Status.TAGGED]
        verb = ("Updated" if self.mode == "update" else "Tagged") if self.written else "Looked at"
        head = f"{verb} {done:,} of {what} in {duration_text(self.seconds)}"
        details = [count_text(asked, "question")]
        if reused:
            details.append(f"{reused:,} answers known before")
        if inherited:
            details.append(f"{inherited:,} frames like their neighbour or black")
        markers = sum(m.markers_created for m in self.media)
        if self.written and markers:
            details.append(f"{count_text(markers, 'marker')} written")
        removed = sum(m.markers_removed for m in self.media)
        if self.written and removed:
            details.append(f"{count_text(removed, 'marker')} of earlier runs removed")
        details.append(f"{count_text(left, 'frame')} left the network" if left else "no frame left the network")
        lines = [f"{head}: {', '.join(details)}."]
        if self.ended_because:
            lines.append(f"The run ended early: {self.ended_because}")
        lines += self._endpoint_troubles()
        causes = self.causes().most_common()
        lines += [f"{count_text(count, noun)}: {reason}" for reason, count in causes[:_MOST_CAUSES]]
        if others := sum(count for _, count in causes[_MOST_CAUSES:]):
            lines.append(f"{count_text(others, noun)} more with other reasons; the report has them all.")
        if unfinished := sum(m.is_unfinished for m in self.media):
            lines.append(
                f"{count_text(unfinished, noun)}: the time was up (max_time_per_scene), so tags and markers are from "
                "what was known by then; the mark stays on, and the next run goes on from there."
            )
        unanswered = Counter[str]()
        for m in self.media:
            if m.status is Status.TAGGED:
                unanswered.update(m.problems)
        lines += [f"{count_text(n, 'frame')} not analysed: {why}" for why, n in unanswered.most_common(_MOST_CAUSES)]
        if not self.written:
            lines.append("Nothing was written to Stash: this was a preview.")
        return "\n".join(lines)

    def _endpoint_troubles(self) -> list[str]:
        """What the user can mend at endpoints that others stood in for."""
        out = [e for e in self.pool.endpoints if e.state in ("parked", "spent")] if self.pool else []
        return [f"Endpoint “{e.name}” is out: {e.reason}" for e in out if e.reason not in self.ended_because]

    def causes(self) -> Counter[str]:
        """Cause of what was not tagged → number of media."""
        return Counter(m.cause or m.reason for m in self.media if m.status is not Status.TAGGED and m.reason)

    def as_json(self) -> str:
        """The whole report as JSON; each medium on a line of its own, for there may be tens of thousands."""
        head = json.dumps(dataclasses.asdict(dataclasses.replace(self, media=())), ensure_ascii=False, indent=1)
        media = ",\n  ".join(json.dumps(dataclasses.asdict(m), ensure_ascii=False, default=str) for m in self.media)
        return head.replace('"media": []', f'"media": [\n  {media}\n ]', 1)

    def as_csv(self) -> str:
        """One line per span, for spreadsheets; formulas are defused."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["kind", "id", "title", "status", "tag", "start", "end", "confidence", "reason"])
        for m in self.media:
            for span in m.spans or (None,):
                cells: Sequence[object] = ("", "", "", "")
                if span:
                    cells = (span.tag, clock_text(span.start_ms), clock_text(span.end_ms), f"{span.confidence:.2f}")
                writer.writerow([_cell(c) for c in (m.kind, m.id, m.title, m.status, *cells, m.reason)])
        return out.getvalue()


def _cell(value: object) -> str:
    text = str(value)
    # a title that starts like a formula would be run by a spreadsheet
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
