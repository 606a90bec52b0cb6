"""The HTML report: whole in one file, bounded, and nothing in it but text and pictures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from haven_vlm.errors import MediaUnreachable
from haven_vlm.facts import Frame, Kind, Outcome, Sample, Span
from haven_vlm.picture import Preparation
from haven_vlm.ports import Analysis
from haven_vlm.report_book import MAX_TEXT_BYTES, PICTURES_PER_SCENE, WAITING, ReportBook, moments
from haven_vlm.report_html import Picture, page, scene_section, text
from haven_vlm.reports import MediumReport, RunReport, Status

EVIL = "<img src=x onerror=alert(1)>"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "section", "span"),
    *("br", "bdi", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "details"),
    *("summary", "svg", "text", "rect"),
}


class Tags(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def assert_harmless(self) -> None:
        for tag, attributes in self.found:
            assert tag in ALLOWED, tag
            assert not any(name.startswith("on") for name in attributes), attributes
            assert not (attributes.get("src") or "data:image/jpeg;base64,").partition("data:image/jpeg;base64,")[0]
            assert "href" not in attributes


def medium(number: int = 1, **more: Any) -> MediumReport:
    values: dict[str, Any] = {"title": "", "status": Status.TAGGED, "tags": ("Foul",)} | more
    return MediumReport(kind=Kind.SCENE, id=str(number), **values)


def analysis(samples: dict[int, Sample] | None = None, duration_ms: int = 60_000) -> Analysis:
    return Analysis(samples or {}, duration_ms, 1, 0, 0, 0, 0)


def run(media: Sequence[MediumReport], **more: Any) -> RunReport:
    return RunReport(mode="tag_videos", run_id=1, started="2026-01-01", seconds=1.0, media=tuple(media), **more)


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


class Reader:
    """Gives the same picture at every time."""

    async def frames(self, wanted: Sequence[int], *, snap_ms: int = 0) -> AsyncIterator[Frame]:
        for at_ms in wanted:
            yield Frame(at_ms, at_ms, b"\xff\xd8jpeg" * 500, 160, 90, b"")


@asynccontextmanager
async def opened(_: Preparation) -> AsyncIterator[Any]:
    yield Reader()


def unreachable(_: Preparation) -> Any:
    raise MediaUnreachable("gone")


async def no_thumbnail(url: str, headers: object, *, limit_bytes: int) -> bytes:
    raise MediaUnreachable("no")


class Stash:
    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        return image_id, {}


@given(st.text(), st.text(), st.text())
def test_whatever_things_are_called_it_is_text(title: str, tag: str, reason: str) -> None:
    bad = medium(2, title=title, status=Status.FAILED, reason=reason or "?", tags=())
    good = medium(title=title, tags=(tag,), spans=(Span(tag, 1000, 2000, 0.5),), problems={reason: 3})
    section = scene_section(good, duration_ms=60_000, samples={}, pictures=[Picture(1000, tag, b"x")])
    Tags("".join(page(run([bad, good], ended_because=reason), [section]))).assert_harmless()


def test_markup_in_names_is_shown_as_it_was_written() -> None:
    named = medium(title=f'the "final"\n{EVIL}', tags=(EVIL,), spans=(Span(EVIL, 0, 2000, 0.5),))
    content = "".join(page(run([named]), [scene_section(named, duration_ms=60_000, samples={})]))
    assert EVIL not in content and "&lt;img src=x onerror=alert(1)&gt;" in content
    Tags(content).assert_harmless()
    assert text("a\x00b\u202e<") == "a b &lt;"


def test_ten_thousand_spans_make_a_small_timeline() -> None:
    spans = tuple(Span(f"tag {n % 10}", n * 700, n * 700 + 350, 0.9) for n in range(10_000))
    samples = {n * 350: Sample(n * 350, n * 350, Outcome.TAGS) for n in range(20_000)}
    section = scene_section(medium(spans=spans), duration_ms=7_000_000, samples=samples)
    assert len(section) < 1_500_000 and "9,800 spans more in the CSV" in section


def test_samples_are_drawn_by_what_became_of_them() -> None:
    samples = {
        0: Sample(0, 0, Outcome.TAGS),
        30_000: Sample(30_000, 30_000, Outcome.NONE, inherited_from_ms=0),
        59_000: Sample(59_000, 59_000, Outcome.UNDECODABLE),
    }
    section = scene_section(medium(), duration_ms=60_000, samples=samples)
    assert [section.count(f'class="{kind}" x=') for kind in ("asked", "inherited", "failed")] == [1, 1, 1]


def test_where_moments_share_a_column_the_worst_of_them_is_drawn() -> None:
    """A failure that lies between answers is what a person looks for."""
    kinds = (Outcome.TAGS, Outcome.UNDECODABLE, Outcome.NONE)
    samples = {t: Sample(t, t, kinds[t % 3], inherited_from_ms=0 if t % 3 == 2 else None) for t in range(30)}
    section = scene_section(medium(), duration_ms=10_000_000, samples=samples)
    assert [section.count(f'class="{kind}" x=') for kind in ("failed", "asked", "inherited")] == [1, 0, 0]


def test_moments_are_those_of_the_longest_spans_of_every_tag() -> None:
    spans = [Span(f"t{n % 6}", n * 1000, n * 1000 + n + 2, 0.5) for n in range(600)]
    wanted = moments(spans)
    assert len(wanted) <= PICTURES_PER_SCENE and set(wanted.values()) == {f"t{n}" for n in range(6)}
    assert moments([Span("a", 0, 10_000, 1.0)]) == {0: "a", 5000: "a"}


async def test_two_thousand_scenes_make_a_report_of_bounded_size(tmp_path: Path) -> None:
    spans = tuple(Span(f"tag {n % 5}", n * 1000, n * 1000 + 500, 0.9) for n in range(100))
    media = [medium(n, title=f"scene {n}", spans=spans) for n in range(2000)]
    seen = analysis({n * 100: Sample(n * 100, n * 100, Outcome.TAGS) for n in range(1000)}, 100_000)
    async with ReportBook(tmp_path, "2026-run1") as book:
        for one in media:
            await book.scene(one, seen, opened)
        file = await book.finish(run(media), Stash(), no_thumbnail)  # type: ignore[arg-type]
    assert file is not None and file.stat().st_size < MAX_TEXT_BYTES + 16 * 1024 * 1024
    content = file.read_text(encoding="utf-8")
    assert "in the table at the end only" in content and content.endswith("</html>\n")
    assert names(tmp_path) == ["2026-run1.html"]


async def test_pictures_that_cannot_be_had_are_left_out_and_said(tmp_path: Path) -> None:
    one = medium(spans=(Span("Foul", 1000, 3000, 0.9),))
    image = MediumReport(kind=Kind.IMAGE, id="5", title="i", status=Status.TAGGED, tags=("Foul",))
    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(one, analysis(), unreachable)
        file = await book.finish(run([one, image]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    assert file is not None and "1 scene without pictures" in file.read_text(encoding="utf-8")


async def test_pictures_are_in_the_report(tmp_path: Path) -> None:
    one = medium(spans=(Span("Foul", 1000, 3000, 0.9),))
    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(one, analysis(), opened)
        file = await book.finish(run([one]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    assert file is not None and file.read_text(encoding="utf-8").count("data:image/jpeg") == 2


async def test_a_folder_that_cannot_be_written_costs_the_report_only(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file", encoding="utf-8")
    async with ReportBook(tmp_path / "reports", "2026-run1") as book:
        await book.scene(medium(), analysis(), opened)
        assert await book.finish(run([medium()]), Stash(), no_thumbnail) is None  # type: ignore[arg-type]


async def test_a_cancelled_run_leaves_no_half_report(tmp_path: Path) -> None:
    async def start() -> None:
        async with ReportBook(tmp_path, "2026-run1") as book:
            await book.scene(medium(spans=(Span("Foul", 0, 9000, 1.0),)), analysis(), opened)
            await asyncio.Event().wait()

    task = asyncio.create_task(start())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert names(tmp_path) == []


# --- bounds -------------------------------------------------------------------------------------------------------


def content_of(file: Path | None) -> str:
    assert file is not None
    return file.read_text(encoding="utf-8")


SPANS = (Span("Foul", 1000, 3000, 0.9),)


async def test_a_mistake_while_pictures_are_taken_costs_the_pictures_of_one_scene(tmp_path: Path) -> None:
    def broken(_: Preparation) -> Any:
        raise ZeroDivisionError("a bug")

    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(medium(1, spans=SPANS), analysis(), broken)
        await book.scene(medium(2, spans=SPANS), analysis(), opened)
        file = await book.finish(run([medium(1), medium(2)]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    content = content_of(file)
    assert content.count("data:image/jpeg") == 2 and "1 scene without pictures" in content


async def test_scenes_that_nobody_had_the_time_to_open_are_in_the_report_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drive hangs at the end of a run: the run does not wait for it for ever, and the report says what lacks."""
    monkeypatch.setattr("haven_vlm.report_book.PATIENCE_S", 0.0)

    @asynccontextmanager
    async def hanging(_: Preparation) -> AsyncIterator[Any]:
        begun.set()
        await asyncio.Event().wait()
        yield

    begun, count = asyncio.Event(), WAITING + 3
    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(medium(0, title="scene 0", spans=SPANS), analysis(), hanging)
        await begun.wait()
        for n in range(1, count):
            await book.scene(medium(n, title=f"scene {n}", spans=SPANS), analysis(), hanging)
        file = await book.finish(run([]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    content = content_of(file)
    assert all(f"scene {n}" in content for n in range(count))
    assert f"{count} scenes without pictures" in content


async def test_a_scene_whose_pictures_take_too_long_keeps_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haven_vlm.report_book.SCENE_S", 0.0)

    class Slow(Reader):
        async def frames(self, wanted: Sequence[int], *, snap_ms: int = 0) -> AsyncIterator[Frame]:
            async for frame in super().frames(wanted[:1]):
                yield frame
            await asyncio.Event().wait()

    @asynccontextmanager
    async def slowly(_: Preparation) -> AsyncIterator[Any]:
        yield Slow()

    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(medium(spans=SPANS), analysis(), slowly)
        file = await book.finish(run([medium()]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    assert content_of(file).count("data:image/jpeg") == 1


async def test_pictures_end_where_the_report_would_become_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haven_vlm.report_book.MAX_PICTURE_BYTES", 4000)  # one picture has 3,000
    async with ReportBook(tmp_path, "2026-run1") as book:
        for n in range(3):
            await book.scene(medium(n, spans=SPANS), analysis(), opened)
        file = await book.finish(run([]), Stash(), no_thumbnail)  # type: ignore[arg-type]
    content = content_of(file)
    assert content.count("data:image/jpeg") == 1 and "2 scenes without pictures" in content


async def test_tagged_images_are_shown_by_the_thumbnails_that_stash_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def image(number: int, **more: Any) -> MediumReport:
        values: dict[str, Any] = {"title": f"image {number}", "status": Status.TAGGED, "tags": ("Foul",)} | more
        return MediumReport(kind=Kind.IMAGE, id=str(number), **values)

    async def thumbnail(url: str, headers: object, *, limit_bytes: int) -> bytes:
        asked.append(url)
        if url == "2":
            raise MediaUnreachable("Stash has none")
        return b"no picture" if url == "3" else picture

    asked: list[str] = []
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "navy").save(out, "JPEG")
    picture = out.getvalue()
    media = [image(1, title=EVIL), image(2), image(3), image(4, tags=()), image(5, status=Status.FAILED)]
    async with ReportBook(tmp_path, "2026-run1") as book:
        file = await book.finish(run(media), Stash(), thumbnail)  # type: ignore[arg-type]
    content = content_of(file)
    assert sorted(asked) == ["1", "2", "3"]
    assert content.count("data:image/jpeg") == 1 and "1 of 3 tagged images" in content
    Tags(content).assert_harmless()
    monkeypatch.setattr("haven_vlm.report_book.MAX_PICTURE_BYTES", -1)
    async with ReportBook(tmp_path, "2026-run2") as book:
        file = await book.finish(run(media), Stash(), thumbnail)  # type: ignore[arg-type]
    assert "data:image" not in content_of(file) and len(asked) == 3


async def test_thumbnails_that_do_not_come_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.report_book.PATIENCE_S", 0.0)

    async def never(url: str, headers: object, *, limit_bytes: int) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("it never comes")

    image = MediumReport(kind=Kind.IMAGE, id="5", title="i", status=Status.TAGGED, tags=("Foul",))
    async with ReportBook(tmp_path, "2026-run1") as book:
        file = await book.finish(run([image]), Stash(), never)  # type: ignore[arg-type]
    assert "data:image" not in content_of(file)


async def test_a_report_whose_place_is_taken_is_said_and_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "2026-run1.html").mkdir()
    async with ReportBook(tmp_path, "2026-run1") as book:
        await book.scene(medium(), analysis(), opened)
        assert await book.finish(run([medium()]), Stash(), no_thumbnail) is None  # type: ignore[arg-type]
    assert "The HTML report could not be written" in caplog.text
    assert names(tmp_path) == ["2026-run1.html"]
