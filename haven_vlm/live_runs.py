"""A run that is over as one entry of the page's list: what it reported, or what a killed one last said of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from haven_vlm.page_data import MAX_CAUSES, MAX_OTHERS, MAX_TEXT, Cause, OtherRun, RunEntry, cut
from haven_vlm.reports import RunReport, Status
from haven_vlm_utility import count_text

MAX_SUMMARY = 2000
"""Characters of a summary in the list; the report has all of it."""


def entry_of(
    *,
    run_id: int,
    mode: str,
    started: str,
    seconds: float,
    ok: bool,
    text: str,
    report: RunReport | None = None,
    served: str | None = None,
    file: str = "",
) -> RunEntry:
    """An entry for a run that worked on media (with its `report`), or did something else, or failed before.

    Args:
        text: what the user was told.
        served: path of the HTML report below the live folder.
        file: the same on this machine.
    """
    lines = (cut(line, MAX_SUMMARY) for line in text.splitlines())
    summary = "\n".join(line for line in lines if line)[:MAX_SUMMARY]
    if report is None:
        ended = "" if ok else cut(text)
        return RunEntry(
            run_id, mode, started, seconds, mode == "undo", ok, {}, 0, 0, 0, 0, 0, ended, summary, (), served, file
        )
    return RunEntry(
        run_id=run_id,
        mode=mode,
        started=started,
        seconds=seconds,
        written=report.written,
        ok=ok,
        counts={str(status): report.counts[status] for status in Status},
        asked=sum(m.asked for m in report.media),
        known=sum(m.reused for m in report.media),
        inherited=sum(m.inherited for m in report.media),
        markers=sum(m.markers_created for m in report.media),
        left_network=report.pool.left_network if report.pool else sum(m.left_network for m in report.media),
        ended_because=cut(report.ended_because),
        summary=summary,
        causes=tuple(Cause(cut(why, MAX_TEXT), n) for why, n in report.causes().most_common(MAX_CAUSES)),
        report=served,
        report_file=file,
    )


_READS_ONLY = ("preview", "check_endpoints", "evaluate")


def entry_of_killed(status: Mapping[str, Any]) -> RunEntry:
    """An entry for a run whose process is gone, from the status it left behind (which may be damaged)."""
    media, questions = _mapping(status.get("media")), _mapping(status.get("questions"))
    updated_s, started = _number(status.get("updated")) / 1000, str(status.get("started") or "")
    done, total = int(_number(media.get("done"))), int(_number(media.get("total")))
    of = f" after {done} of {count_text(total, 'medium')}" if total else ""
    causes = status.get("causes")
    return RunEntry(
        run_id=int(_number(status.get("run_id"))),
        mode=str(status.get("mode") or ""),
        started=started,
        seconds=max(0.0, updated_s - seconds_of(started)) if seconds_of(started) else 0.0,
        written=status.get("mode") not in _READS_ONLY,
        ok=False,
        counts={},
        asked=int(_number(questions.get("asked"))),
        known=int(_number(questions.get("known"))),
        inherited=int(_number(questions.get("inherited"))),
        markers=0,
        left_network=int(_number(status.get("left_network"))),
        ended_because=f"Stopped or killed{of}.",
        summary=f"Stopped or killed{of}. All answers until then are kept; starting it again goes on from there.",
        causes=tuple(
            Cause(cut(str(cause.get("reason"))), int(_number(cause.get("count"))))
            for cause in (causes if isinstance(causes, list) else [])[:MAX_CAUSES]
            if isinstance(cause, Mapping)
        ),
        report=None,
        stopped=True,
    )


def others_of(statuses: Sequence[Mapping[str, Any]]) -> tuple[OtherRun, ...]:
    """What a status says of runs that go on beside it."""
    return tuple(
        OtherRun(
            run_id=int(_number(status.get("run_id"))),
            mode=cut(str(status.get("mode") or ""), 40),
            state=cut(str(status.get("state") or ""), 40),
            message=cut(str(status.get("message") or ""), 200),
            progress=_number(status.get("progress")),
            done=int(_number(_mapping(status.get("media")).get("done"))),
            total=int(_number(_mapping(status.get("media")).get("total"))),
        )
        for status in statuses[:MAX_OTHERS]
    )


def seconds_of(iso: str) -> float:
    """A time of day as seconds since 1970; 0 if it is none."""
    try:
        return datetime.fromisoformat(iso).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
