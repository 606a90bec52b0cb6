"""What Find Marker Settings says: a table for the log, a proposal as YAML, the same as JSON. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from haven_vlm.agreement import Tally
from haven_vlm.settings import Settings
from haven_vlm.tuning import Proposal, TagResult
from haven_vlm.yaml_edit import Changes, Value, block
from haven_vlm_utility import Length, count_text

_HEAD = f"{'tag':<24} {'':<9} {'IoU':>11} {'missed':>9} {'invented':>9} {'ends off (median)':>19}"


def vocabulary_key(settings: Settings) -> str:
    """What a proposal holds for: names and definitions of the tags, and the instructions."""
    parts = [settings.instructions, *(part for t in settings.tag_list for part in (t.name, t.definition))]
    return hashlib.sha256("\0".join(" ".join(p.split()) for p in parts).encode("utf-8", "replace")).hexdigest()[:12]


def table(proposal: Proposal) -> str:
    """Before and after, for each tag: on all scenes, and on those that were held out."""
    lines = [_HEAD]
    for t in proposal.tags:
        lines.append(_row(t.tag[:24], "fitted", *t.fitted))
        lines.append(_row("", "held out", *t.held_out))
        lines.append(f"  → {_verdict(t)}")
    return "\n".join(lines)


def _row(tag: str, what: str, before: Tally, after: Tally) -> str:
    ends = f"{_seconds(before.error_ms(0.5))} → {_seconds(after.error_ms(0.5))}"
    return (
        f"{tag:<24} {what:<9} {before.quality:4.2f} → {after.quality:4.2f} {before.missed:>3} → {after.missed:>3} "
        f"{before.invented:>3} → {after.invented:>3} {ends:>19}"
    )


def _verdict(t: TagResult) -> str:
    changed = ", ".join(f"{key} {_said(old)} → {_said(new)}" for key, (old, new) in t.changes.items())
    if changed and t.refused and t.required:
        return f"{changed} ({_required(t)}); otherwise as it is: {t.refused}"
    if not changed:
        return f"stays as it is: {t.refused}"
    return changed + (f" ({_required(t)})" if t.required else "")


def _required(t: TagResult) -> str:
    return f"scenes that have or lack it wrongly: {t.mistaken[0]} → {t.mistaken[1]}"


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seconds(ms: int | None) -> str:
    return "–" if ms is None else f"{ms / 1000:.1f} s"


def changes_of(proposal: Proposal) -> Changes:
    """What is proposed, with what it was."""
    return {
        t.tag: {key: Value(_yaml(new), f"was {_said(old)}") for key, (old, new) in t.changes.items()}
        for t in proposal.changed
    }


def _yaml(value: float | Length) -> str:
    return str(value) if isinstance(value, Length) else repr(value)


def proposal_yaml(proposal: Proposal, settings: Settings, *, made: str) -> str:
    """The file of a proposal.

    Args:
        proposal: with at least one tag changed.
        settings: of today.
        made: date and time, for people.
    """
    held = "stretches of them" if proposal.stretches else "scenes"
    lines = [
        f"# Proposed by Find Marker Settings on {made}, from {count_text(proposal.scenes, 'scene')} you went through.",
        "# IoU: time in common by time in either, mean over all spans; a missed or an invented one counts 0.",
        f"# “Held out”: {held} that the values were not fitted to.",
        "#",
        "# To apply it: the task Apply Marker Settings, or the command find_marker_settings --apply. Before, values",
        "# may be changed here, and tags deleted. Then Update Results writes the markers anew, without a question.",
        "",
        "proposal:",
        f"  vocabulary: {_quoted(vocabulary_key(settings))}  # the tags and definitions it was made for",
        "",
    ]
    for t in proposal.changed:
        lines.append(f"# {t.tag}: {count_text(t.scenes, 'scene')}")
        if not t.refused:
            (a, b), (c, d) = t.fitted, t.held_out
            lines += [
                f"#   IoU {a.quality:.2f} → {b.quality:.2f}, held out {c.quality:.2f} → {d.quality:.2f}; missed "
                f"{a.missed} → {b.missed}, invented {a.invented} → {b.invented}"
            ]
        if t.required:
            lines.append(f"#   {_required(t)}")
    return "\n".join(lines) + "\n" + block(changes_of(proposal))


def _quoted(text: str) -> str:
    return f'"{text}"'


def as_json(proposal: Proposal) -> dict[str, Any]:
    """The figures, for the report."""
    return {
        "scenes": proposal.scenes,
        "held_out": "stretches" if proposal.stretches else "scenes",
        "tags": [
            {
                "tag": t.tag,
                "scenes": t.scenes,
                "changes": {key: {"before": _plain(a), "after": _plain(b)} for key, (a, b) in t.changes.items()},
                "stays_because": t.refused,
                "fitted": {"before": t.fitted[0].as_json(), "after": t.fitted[1].as_json()},
                "held_out": {"before": t.held_out[0].as_json(), "after": t.held_out[1].as_json()},
                "scenes_wrong": {"before": t.mistaken[0], "after": t.mistaken[1]} if t.required else None,
            }
            for t in proposal.tags
        ],
    }


def _plain(value: float | Length) -> float | str:
    return str(value) if isinstance(value, Length) else value
