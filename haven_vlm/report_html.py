"""A run as one HTML file that needs nothing else: no script; opens from disk, prints, light and dark. Pure.

Everything that came from outside goes through `text`, so whatever a tag, a file or a model is called is shown as text.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from haven_vlm.facts import Sample, Span
from haven_vlm.page_data import cut
from haven_vlm.pool_ports import EndpointStatistics
from haven_vlm.reports import MediumReport, RunReport, Status
from haven_vlm_utility import clock_text, count_text

MAX_SPANS_LISTED = 200
"""Spans of one scene that are listed; the CSV beside the report has all."""
MAX_ROWS = 2000
"""Media in one table; the CSV has all."""
MAX_LANES = 60

_WIDTH = 840
"""Columns of a timeline: what is closer together than one of them is drawn as one."""
_LEFT = 160
_LANE_PX = 18

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--span:#0969da;--asked:#1a7f37;
--inherited:#8c959f;--failed:#cf222e;--card:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e6edf3;--dim:#9da7b3;--line:#3a434d;--span:#58a6ff;
--asked:#3fb950;--inherited:#6e7681;--failed:#ff7b72;--card:#1d232a}}
@media print{:root{--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--card:#fff;--span:#0969da}section{break-inside:avoid}}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem;margin:0}
p.dim,.dim{color:var(--dim)}section{border:1px solid var(--line);border-radius:6px;background:var(--card);
padding:.75rem;margin:1rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.2rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
th{overflow-wrap:normal}td.n,th.n{white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block;margin:.5rem 0}svg text{fill:var(--fg);font:12px system-ui,sans-serif}
.lane{fill:var(--line);opacity:.35}.span{fill:var(--span)}.asked{fill:var(--asked)}.inherited{fill:var(--inherited)}
.failed{fill:var(--failed)}figure{display:inline-block;margin:.25rem;width:160px;vertical-align:top}
figure img{width:160px;height:auto;border-radius:4px}figcaption{font-size:.8rem;color:var(--dim)}
.bad{color:var(--failed);font-weight:600}
"""

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">
<title>{title}</title><style>{style}</style></head><body><main>
"""

_END = "</main></body></html>\n"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a contact sheet."""

    at_ms: int
    caption: str
    jpeg: bytes


def text(value: object, limit: int = 500) -> str:
    """A text for HTML, between tags or in an attribute in double quotes: on one line, without control characters."""
    return html.escape(cut(str(value), limit), quote=True)


def name(value: object, limit: int = 300) -> str:
    """The same for names from outside, which may be written from right to left: it cannot turn what follows it."""
    return f"<bdi>{text(value, limit)}</bdi>"


def page(report: RunReport, sections: Iterable[str], *, left_out: Sequence[str] = ()) -> Iterable[str]:
    """The file, piece by piece.

    Args:
        sections: of the media, as `scene_section` and `image_section` made them.
        left_out: sentences about what is not in it.
    """
    title = f"Run {report.run_id}: {report.mode}"
    yield _HEAD.format(title=text(title), style=_STYLE)
    yield _summary(report, title, left_out)
    yield from sections
    yield _others(report)
    yield _END


def _summary(report: RunReport, title: str, left_out: Sequence[str]) -> str:
    first, *rest = report.summary().splitlines()
    parts = [f"<h1>{text(title)}</h1><p><strong>{text(first, 1000)}</strong></p>"]
    parts += [f"<p>{text(line, 1000)}</p>" for line in rest]
    parts.append(f'<p class="dim">Started {text(report.started)}.</p>')
    if causes := report.causes().most_common():
        rows = [f'<tr><td>{text(why)}</td><td class="n">{count:,}</td></tr>' for why, count in causes[:200]]
        parts.append(_table("What was not done, and why", ("Cause", "Media"), rows))
    if report.pool is not None and report.pool.endpoints:
        rows = [_endpoint_row(e) for e in report.pool.endpoints]
        head = (
            "Endpoint",
            "Model",
            "Answers",
            "p50",
            "p95",
            "Tokens in / cached / out",
            "Left the network",
            "Failures",
        )
        parts.append(_table("Endpoints", head, rows))
    parts += [f'<p class="dim">{text(sentence)}</p>' for sentence in left_out]
    return "".join(parts)


def _table(heading: str, head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join(rows)
    return (
        f'<h2>{text(heading)}</h2><div class="scroll" tabindex="0" role="region" aria-label="{text(heading)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def _endpoint_row(e: EndpointStatistics) -> str:
    failures = ", ".join(f"{count} × {fault}" for fault, count in e.failures.items())
    trouble = "; ".join(part for part in (failures, e.reason) if part)
    return (
        f"<tr><td>{name(e.name)}</td><td>{name(e.model)}</td>"
        f'<td class="n">{e.answered:,}</td><td class="n">{e.p50_s:.2f} s</td><td class="n">{e.p95_s:.2f} s</td>'
        f'<td class="n">{e.tokens_in:,} / {e.tokens_cached:,} / {e.tokens_out:,}</td>'
        f'<td class="n">{e.left_network:,}</td><td>{text(trouble)}</td></tr>'
    )


# --- a scene --------------------------------------------------------------------------------------------------


def scene_section(
    report: MediumReport, *, duration_ms: int, samples: Mapping[int, Sample], pictures: Sequence[Picture] = ()
) -> str:
    """One scene: what was found, its timeline, its spans, its contact sheet."""
    parts = [f"<section><h3>{_title(report)}</h3><p>{_outcome(report)}</p>"]
    if duration_ms > 0 and (report.spans or samples):
        parts.append(timeline_svg(report.spans, samples, duration_ms, label=f"Timeline of {report.kind} {report.id}"))
        parts.append(_legend(samples))
    if pictures:
        parts += [_figure(picture) for picture in pictures]
    if report.spans:
        parts.append(_spans(report.spans))
    return "".join(parts) + "</section>\n"


def _title(report: MediumReport) -> str:
    named = f" {name(report.title)}" if report.title else ""
    return f"{text(report.kind)} {text(report.id)}{named}"


def _outcome(report: MediumReport) -> str:
    if report.status is not Status.TAGGED:
        return f'<span class="bad">{text(report.status)}</span> {text(report.reason, 1000)}'
    tags = ", ".join(name(tag) for tag in report.tags) or "no tag applies"
    counted = [
        count_text(report.asked, "question"),
        f"{report.reused:,} known before",
        f"{report.inherited:,} like a neighbour or blank",
        f"coverage {report.coverage:.0%}",
    ]
    if report.kept_for_user:
        counted.append(f"{report.kept_for_user} left as you have it")
    problems = "".join(f"<br>{count:,} × {text(why)}" for why, count in list(report.problems.items())[:20])
    return f'{tags}<br><span class="dim">{text("; ".join(counted))}{problems}</span>'


def _legend(samples: Mapping[int, Sample]) -> str:
    kinds = [_kind(sample) for sample in samples.values()]
    asked, inherited, failed = (kinds.count(k) for k in ("asked", "inherited", "failed"))
    return (
        f'<p class="dim">Bottom row: {asked:,} moments asked (green), {inherited:,} inherited or blank (grey), '
        f"{failed:,} not analysed (red). A bar is the paler, the less sure it is.</p>"
    )


def _spans(spans: Sequence[Span]) -> str:
    rows = [
        f'<tr><td>{name(s.tag)}</td><td class="n">{clock_text(s.start_ms)}</td>'
        f'<td class="n">{clock_text(s.end_ms)}</td><td class="n">{s.confidence:.2f}</td></tr>'
        for s in spans[:MAX_SPANS_LISTED]
    ]
    more = len(spans) - len(rows)
    note = f'<p class="dim">{count_text(more, "span")} more in the CSV file of this run.</p>' if more > 0 else ""
    return (
        f"<details><summary>{count_text(len(spans), 'span')}</summary><table><thead><tr><th>Tag</th>"
        f'<th class="n">Start</th><th class="n">End</th><th class="n">Confidence</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{note}</details>"
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.jpeg).decode("ascii")
    caption = f"{name(picture.caption)} {clock_text(picture.at_ms)}"
    alt = text(f"{picture.caption} at {clock_text(picture.at_ms)}")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{alt}" loading="lazy">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _kind(sample: Sample) -> str:
    if not sample.outcome.analysed:
        return "failed"
    return "asked" if sample.inherited_from_ms is None else "inherited"


def timeline_svg(spans: Sequence[Span], samples: Mapping[int, Sample], duration_ms: int, *, label: str) -> str:
    """A lane for each tag, and a row of the moments looked at. Its size is bounded whatever their number."""
    by_tag: dict[str, list[Span]] = {}
    for span in spans:
        by_tag.setdefault(span.tag, []).append(span)
    lanes = list(by_tag.items())[:MAX_LANES]
    height = (len(lanes) + 1) * _LANE_PX + 20
    parts = [f'<svg viewBox="0 0 {_LEFT + _WIDTH} {height}" role="img" aria-label="{text(label)}">']
    for row, (tag, some) in enumerate(lanes):
        y = row * _LANE_PX
        parts.append(f'<text x="0" y="{y + 13}">{text(tag, 24)}</text>')
        parts.append(f'<rect class="lane" x="{_LEFT}" y="{y + 2}" width="{_WIDTH}" height="{_LANE_PX - 4}"/>')
        for left, right, sure in _bars(some, duration_ms):
            tip = f"{tag}: {clock_text(left * duration_ms // _WIDTH)} to {clock_text(right * duration_ms // _WIDTH)}"
            parts.append(
                f'<rect class="span" x="{_LEFT + left}" y="{y + 2}" width="{right - left}" height="{_LANE_PX - 4}" '
                f'opacity="{0.35 + 0.65 * sure:.2f}"><title>{text(tip)}, {sure:.2f}</title></rect>'
            )
    y = len(lanes) * _LANE_PX
    for column, kind in _ticks(samples, duration_ms):
        parts.append(f'<rect class="{kind}" x="{_LEFT + column}" y="{y + 4}" width="1" height="8"/>')
    for part in range(5):
        x, anchor = _LEFT + part * _WIDTH // 4, ("start", "middle", "middle", "middle", "end")[part]
        at = clock_text(duration_ms * part // 4)
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="{anchor}">{at}</text>')
    return "".join(parts) + "</svg>"


def _bars(spans: Iterable[Span], duration_ms: int) -> list[tuple[int, int, float]]:
    """Columns from and to, and the highest confidence there; bars that touch at this resolution are one."""
    bars: list[tuple[int, int, float]] = []
    for span in sorted(spans, key=lambda s: s.start_ms):
        left = min(_WIDTH - 1, max(0, span.start_ms * _WIDTH // duration_ms))
        right = min(_WIDTH, max(left + 1, -(-span.end_ms * _WIDTH // duration_ms)))
        if bars and left < bars[-1][1]:
            before = bars[-1]
            bars[-1] = (before[0], max(before[1], right), max(before[2], span.confidence))
        else:
            bars.append((left, right, span.confidence))
    return bars


def _ticks(samples: Mapping[int, Sample], duration_ms: int) -> list[tuple[int, str]]:
    """Column → what is worst to know about it: failed before asked before inherited."""
    rank = {"inherited": 0, "asked": 1, "failed": 2}
    worst: dict[int, str] = {}
    for at_ms, sample in samples.items():
        column = min(_WIDTH - 1, max(0, at_ms * _WIDTH // duration_ms))
        kind = _kind(sample)
        if rank[kind] >= rank.get(worst.get(column, ""), -1):
            worst[column] = kind
    return sorted(worst.items())


# --- all others -----------------------------------------------------------------------------------------------


def pictures_section(heading: str, pictures: Sequence[Picture]) -> str:
    """A contact sheet of images."""
    figures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(p.jpeg).decode("ascii")}" alt="{text(p.caption)}" '
        f'loading="lazy"><figcaption>{name(p.caption)}</figcaption></figure>'
        for p in pictures
    )
    return f"<section><h3>{text(heading)}</h3>{figures}</section>\n" if pictures else ""


def _others(report: RunReport) -> str:
    """All media in one table."""
    rows = [
        f"<tr><td>{text(m.kind)} {text(m.id)}</td><td>{name(m.title)}</td><td>{text(m.status)}</td>"
        f"<td>{', '.join(name(t) for t in m.tags[:50])}{text(m.reason, 1000)}</td>"
        f'<td class="n">{len(m.spans):,}</td></tr>'
        for m in sorted(report.media, key=lambda m: m.status is Status.TAGGED)[:MAX_ROWS]
    ]
    more = len(report.media) - len(rows)
    table = _table("All media", ("Medium", "Title", "Outcome", "Tags, or the reason", "Spans"), rows)
    note = f'<p class="dim">{more:,} more are in the CSV and JSON files of this run.</p>' if more > 0 else ""
    return table + note
