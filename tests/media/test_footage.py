"""The generated clips say the truth, at every size and quality that the product makes of them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo.court import Canvas
from demo.footage import TAGS, Plan, cached_clip, random_plan, time_of, truth_of, write_clip
from haven_vlm.facts import Span


def jpeg(image: Image.Image, width: int, quality: int = 80) -> bytes:
    small = image.resize((width, round(width * image.height / image.width)), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.mark.parametrize("motion", ["still", "calm", "busy"])
@pytest.mark.parametrize("width", [448, 768])
def test_every_frame_of_a_clip_says_what_the_plan_says(tmp_path: Path, motion: str, width: int) -> None:
    plan = replace(random_plan(12, spans=6, seed=4, longest_s=5, cut_every_s=3), motion=motion)  # type: ignore[arg-type]
    write_clip(tmp_path / "clip.mp4", plan, fps=10, size=(1280, 720), gop=30)
    seen = set()
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        for number, frame in enumerate(clip.decode(video=0)):
            picture = jpeg(frame.to_image(), width)  # type: ignore[no-untyped-call]
            assert time_of(picture) == number * 100
            assert truth_of(picture) == plan.at(number * 100)
            seen.add(truth_of(picture))
    assert number == 119
    assert len(seen) > 3


@given(st.sets(st.integers(0, 15)), st.integers(2, 16), st.integers(0, 5), st.integers(0, (1 << 23) - 1))
def test_any_set_of_any_vocabulary_can_be_read(chosen: set[int], count: int, shot: int, at_ms: int) -> None:
    tags = tuple(f"tag {n}" for n in range(count))
    present = frozenset(tags[n] for n in chosen if n < count)
    canvas = Canvas(640, 360)
    image = canvas.backdrop(shot, present, tags)
    image.paste(canvas.strip(at_ms).convert("RGB"), (0, 0))
    assert truth_of(jpeg(image, 448), tags) == present
    assert time_of(jpeg(image, 448)) == at_ms


@pytest.mark.parametrize("colour", ["black", "white", "orange"])
def test_a_picture_of_something_else_is_refused(colour: str) -> None:
    stranger = Image.new("RGB", (640, 360), colour)
    with pytest.raises(ValueError, match="no readable card"):
        truth_of(stranger)
    with pytest.raises(ValueError, match="no readable time"):
        time_of(stranger)


@given(st.floats(5, 600), st.integers(0, 40), st.integers(0, 99), st.booleans())
def test_plans_are_reproducible_and_keep_their_rules(seconds: float, spans: int, seed: int, overlap: bool) -> None:
    plan = random_plan(seconds, spans=spans, seed=seed, overlap=overlap)
    assert plan == random_plan(seconds, spans=spans, seed=seed, overlap=overlap)
    assert list(plan.cuts_ms) == sorted(set(plan.cuts_ms))
    for index, span in enumerate(plan.spans):
        assert 0 <= span.start_ms < span.end_ms <= plan.duration_ms
        for other in plan.spans[index + 1 :]:
            if other.tag == span.tag or not overlap:
                assert other.start_ms >= span.end_ms or other.end_ms <= span.start_ms


def test_the_truth_changes_exactly_at_the_edges() -> None:
    plan = Plan(10_000, (Span("Dunk", 1000, 3000, 1.0), Span("Foul", 2000, 4000, 1.0)))
    assert [sorted(plan.at(t)) for t in (0, 999, 1000, 1999, 2000, 2999, 3000, 3999, 4000)] == [
        [],
        [],
        ["Dunk"],
        ["Dunk"],
        ["Dunk", "Foul"],
        ["Dunk", "Foul"],
        ["Foul"],
        ["Foul"],
        [],
    ]


def test_a_plan_refuses_what_it_cannot_show() -> None:
    with pytest.raises(ValueError, match="does not have: Volleyball"):
        Plan(1000, (Span("Volleyball", 0, 1, 1.0),))
    with pytest.raises(ValueError, match="1 to 16"):
        Plan(1000, (), tuple(f"t{n}" for n in range(17)))
    with pytest.raises(ValueError, match="at least a millisecond"):
        Plan(0, (), TAGS)


def test_a_clip_is_made_once_and_again_for_another_plan(tmp_path: Path) -> None:
    plan = random_plan(2, seed=1)
    first = cached_clip(tmp_path, plan, fps=5, size=(320, 180))
    written = first.stat().st_mtime_ns
    assert cached_clip(tmp_path, plan, fps=5, size=(320, 180)) == first
    assert first.stat().st_mtime_ns == written
    assert cached_clip(tmp_path, random_plan(2, seed=2), fps=5, size=(320, 180)) != first
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4", ".mp4"]
