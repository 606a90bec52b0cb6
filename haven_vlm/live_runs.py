"""A finished run as one entry of the page's list."""

from __future__ import annotations

from haven_vlm.page_data import MAX_CAUSES, MAX_TEXT, Cause, RunEntry, cut
from haven_vlm.reports import RunReport, Status

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
