"""What is collected of a correction: which moments to show, and the lines of the files. Pure.

The schema of the lines is in docs/corrections.md; raise `SCHEMA` whenever it changes otherwise than by additions.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from haven_vlm.corrections import Correction, Stretch
from haven_vlm.facts import Frame, Medium, Prompt, Sample

SCHEMA = 1
AROUND_MS = 1000
"""So far outside a span a frame is taken where the model was not asked."""
NEAR_MS = 10_000
"""A moment that the model was asked about stands for the frame outside a span when it is no farther than this."""
MOST_MOMENTS = 5
"""Of a tag on a whole scene."""
_OUTSIDE_BEFORE, _OUTSIDE_AFTER = "outside_before", "outside_after"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time to show, and what it is in the correction."""

    at_ms: int
    place: str
    """'outside_before', 'start', 'middle', 'end', 'outside_after' of the span as it was; the same with 'new_' of
    the span as the user has it; 'moment' of a whole scene; 'picture' of an image."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a collection."""

    frame: Frame
    place: str
    sample: Sample | None = None
    """What the ledger knows the model to have said about this very picture."""
    image_id: str = ""
    """The image it is of, in a gallery."""
    local_only: bool = False
    """That image must not leave the network, whatever holds for the gallery."""


def moments_of_span(
    span: Stretch, samples: Mapping[int, Sample], duration_ms: int | None, *, prefix: str = ""
) -> list[Moment]:
    """Start, middle and end of a span, and just outside both ends.

    Where the model was asked nearby, the very moment it was asked about is taken: that picture led to the answer.
    """
    start, end = span
    times = sorted(t for t, s in samples.items() if s.outcome.analysed)
    inside = times[bisect_left(times, start) : bisect_left(times, end)]
    middle = (start + end) // 2
    chosen = {
        "start": inside[0] if inside else start,
        "middle": min(inside, key=lambda t: (abs(t - middle), t)) if inside else middle,
        "end": inside[-1] if inside else max(start, end - 1),
    }
    before = times[bisect_left(times, start) - 1 : bisect_left(times, start)] if bisect_left(times, start) else []
    after = times[bisect_left(times, end) : bisect_left(times, end) + 1]
    if before and start - before[0] <= NEAR_MS:
        chosen[_OUTSIDE_BEFORE] = before[0]
    elif start > 0:
        chosen[_OUTSIDE_BEFORE] = max(0, start - AROUND_MS)
    if after and after[0] - end <= NEAR_MS:
        chosen[_OUTSIDE_AFTER] = after[0]
    elif duration_ms is None or end < duration_ms:
        late = end + AROUND_MS
        chosen[_OUTSIDE_AFTER] = late if duration_ms is None else min(late, max(end, duration_ms - 1))
    order = (_OUTSIDE_BEFORE, "start", "middle", "end", _OUTSIDE_AFTER)
    return [Moment(chosen[place], prefix + place) for place in order if place in chosen]


def moments_of(
    correction: Correction, samples: Mapping[int, Sample], duration_ms: int | None, doubtful: Sequence[Stretch] = ()
) -> tuple[Moment, ...]:
    """What to show of a scene for a correction, ascending by time; each time once.

    Args:
        samples: time in milliseconds → what the ledger knows of it.
        duration_ms: of the scene; None when unknown.
        doubtful: spans of ours on the scene, for a correction of the whole result.
    """
    found: list[Moment] = []
    if correction.before is not None:
        found += moments_of_span(correction.before, samples, duration_ms)
    if correction.after is not None:
        found += moments_of_span(correction.after, samples, duration_ms, prefix="new_")
    if not found:
        for span in doubtful:
            found += moments_of_span(span, samples, duration_ms)
    if not found:
        naming = [s for s in samples.values() if correction.tag in s.tags]
        surest = sorted(naming, key=lambda s: (-s.tags[correction.tag], s.at_ms))[:MOST_MOMENTS]
        found = [Moment(s.at_ms, "moment") for s in surest]
    if not found and duration_ms:
        found = [Moment((2 * n + 1) * duration_ms // (2 * MOST_MOMENTS), "moment") for n in range(MOST_MOMENTS)]
    first: dict[int, Moment] = {}
    for moment in found or [Moment(0, "moment")]:
        first.setdefault(moment.at_ms, moment)
    return tuple(first[t] for t in sorted(first))


def applies(correction: Correction, at_ms: int) -> bool | None:
    """Whether the tag applies at this time, by the user's word; None: they said nothing about it."""
    if not correction.tag_id:
        return None
    if correction.after is not None and _holds(correction.after, at_ms):
        return True
    if correction.before is None or _holds(correction.before, at_ms):
        return False
    return None


def _holds(span: Stretch, at_ms: int) -> bool:
    return span[0] <= at_ms < span[1]


# --- lines ----------------------------------------------------------------------------------------------------


def record(
    correction: Correction,
    medium: Medium | None,
    *,
    shots: Sequence[tuple[Shot, str]],
    prompt: Prompt,
    picture: str,
    local_only: bool,
    results: Iterable[Mapping[str, object]] = (),
    problem: str = "",
) -> dict[str, Any]:
    """One correction as a line of corrections.jsonl.

    Args:
        medium: None when Stash does not have it any more; the line says `gone` then.
        shots: pictures, each with the path of its file inside the collection.
        prompt: the question, as the present settings ask it.
        picture: key of the picture preparation.
        results: what of ours stands there, for a correction of the whole result.
        problem: why there are no pictures; '' when there are.
    """
    file = medium.files[0] if medium is not None and medium.files else None
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "correction": correction.id,
        "kind": correction.kind.value,
        "medium_id": correction.medium_id,
        "title": medium.title if medium is not None else "",
        "file_identity": file.identity if file is not None and not _names_path(file.identity) else "",
        "width_px": file.width_px if file is not None else 0,
        "height_px": file.height_px if file is not None else 0,
        "local_only": local_only,
        "verdict": correction.verdict.value,
        "source": correction.source.value,
        "tag": correction.tag,
        "tag_id": correction.tag_id,
        "before_ms": correction.before,
        "after_ms": correction.after,
        "marker_id": correction.marker_id,
        "run_id": correction.run_id,
        "said_at": datetime.fromtimestamp(correction.at, UTC).isoformat(timespec="seconds"),
    }
    if results:
        made["results"] = list(results)
    if problem:
        return made | {"problem": problem} | ({"gone": True} if medium is None else {})
    return made | {
        "picture": picture,
        "prompt": {"key": prompt.key, "system": prompt.system, "user": prompt.user, "schema": dict(prompt.schema)},
        "frames": [_frame(correction, shot, name) for shot, name in shots],
    }


def _names_path(identity: str) -> bool:
    """Without a fingerprint a file is told by its path, which is nobody else's business."""
    return identity.startswith("path:")


def _frame(correction: Correction, shot: Shot, name: str) -> dict[str, Any]:
    frame, sample = shot.frame, shot.sample
    made: dict[str, Any] = {
        "file": name,
        "place": shot.place,
        "at_ms": frame.at_ms,
        "shown_ms": frame.shown_ms,
        "width_px": frame.width_px,
        "height_px": frame.height_px,
        "applies": applies(correction, frame.at_ms),
        "answer": None,
    }
    if shot.image_id:
        made["image_id"] = shot.image_id
    if sample is not None:
        made["answer"] = {
            "outcome": sample.outcome.value,
            "tags": dict(sample.tags),
            "model": sample.model,
            "inherited_from_ms": sample.inherited_from_ms,
        }
    return made


def examples(line: Mapping[str, Any], terms: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Chats for fine-tuning from a line of corrections.jsonl: the question, the picture, the answer as it should be.

    Only of frames about which the user's word and the model's answer are both known: the right answer is the
    model's, with the tag in question put right.
    """
    for frame in line.get("frames", ()):
        if frame["applies"] is None or frame["answer"] is None:
            continue
        tags = {*frame["answer"]["tags"]} - {line["tag"]} | ({line["tag"]} if frame["applies"] else set())
        right = json.dumps({"tags": [t for t in terms if t in tags]}, ensure_ascii=False, separators=(",", ":"))
        shown = [
            {"type": "text", "text": line["prompt"]["user"]},
            {"type": "image_url", "image_url": {"url": frame["file"]}},
        ]
        yield {
            "messages": [
                {"role": "system", "content": line["prompt"]["system"]},
                {"role": "user", "content": shown},
                {"role": "assistant", "content": right},
            ]
        }


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most so many of these, evenly spread, in order."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * n + 1) * len(items) // (2 * most)] for n in range(most)]
