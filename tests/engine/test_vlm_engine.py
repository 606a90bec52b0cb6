"""The adapter for `vlm-engine`, with a scripted double of the package run by the real worker in a real process.

Where the package is installed, HAVEN_VLM_ENGINE_PYTHON names its Python, and the same contract is tried with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from haven_vlm.errors import HavenError, MediaError, MediaUnreachable, MediaUnreadable, OutageError
from haven_vlm.facts import Answer, Outcome, Question, Term
from haven_vlm.picture import Preparation
from haven_vlm.ports import Analysis, Settled, VideoJob
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings
from haven_vlm.timeline import conclude
from haven_vlm.vlm_engine import WORKER, VlmEngine
from haven_vlm.vlm_engine_bridge import Bridge
from haven_vlm.vlm_engine_worker import configuration
from tests.engine.test_engine import Pool, Store

SETTINGS = Settings.model_validate(
    {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": ["Foul", "Dunk"], "video_frame_interval": 2}
)

PACKAGE = '''
import asyncio, base64, io, json, os, sys, time, urllib.request
from PIL import Image

print("the package likes to talk")

class EngineConfig:
    def __init__(self, **values):
        self.values = values

class VLMEngine:
    """Scans, and makes one span of each tag from its first to its last moment."""

    def __init__(self, config):
        self.config = config.values

    async def initialize(self):
        pass

    def ask(self, second):
        out = io.BytesIO()
        Image.new("RGB", (64, 36), (int(second), 40, 90)).save(out, "JPEG", quality=95)
        url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        model = self.config["models"]["vlm"]
        body = {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "which tag?"}]}]}
        endpoint = model["multiplexer_endpoints"][0]
        request = urllib.request.Request(endpoint["base_url"] + "/chat/completions", json.dumps(body).encode(),
            {"Authorization": "Bearer " + endpoint["api_key"], "Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            text = json.load(answer)["choices"][0]["message"]["content"]
        return [t.strip() for t in text.split("|")[-1].split(",")]

    async def process_video(self, path, progress, **options):
        WHAT
        seen = {}
        for second in range(0, 20, int(options["frame_interval"])):
            try:
                tags = await asyncio.to_thread(self.ask, second)
            except OSError:
                tags = []
            progress(second * 5)
            for tag in tags:
                seen.setdefault(tag, []).append(second)
        limits = self.config["category_config"]["actiondetection"]
        spans = {t: [{"start": s[0], "end": s[-1], "totalConfidence": 0.99}] for t, s in seen.items() if t in limits}
        return {"video_tag_info": {"video_duration": 20.0, "tag_timespans": {"actiondetection": spans}}}
'''


def double(folder: Path, what: str = "pass") -> Path:
    """The real worker, and a package of the right name for it to find."""
    package = folder / "vlm_engine"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE.replace("WHAT", what), encoding="utf-8")
    (package / "config_models.py").write_text("from vlm_engine import EngineConfig\n", encoding="utf-8")
    started = folder / "started.py"
    started.write_text(
        textwrap.dedent(f"""
        import runpy, sys
        sys.path.insert(0, {str(folder)!r})
        runpy.run_path({str(WORKER)!r}, run_name="__main__")
        """),
        encoding="utf-8",
    )
    return started


class Sink:
    def __init__(self) -> None:
        self.settled = 0

    def plan(self, lane: str, planned: int) -> None:
        assert planned > 0

    def done(self, lane: str, count: int = 1, *, how: Settled = Settled.ASKED) -> None:
        self.settled += count

    def look(self, lane: str, at_ms: int, jpeg: bytes | None) -> None: ...

    def close(self, lane: str) -> None: ...


def engine(pool: Pool, store: Store, worker: Path, *, python: Path = Path(sys.executable), **options: Any) -> VlmEngine:
    async def has_it() -> Path:
        return python

    return VlmEngine(
        pool=pool,
        store=store,
        progress=Sink(),
        make_prompt=lambda terms: build_prompt(terms),
        terms=(Term("Foul"), Term("Dunk")),
        settings=SETTINGS,
        preparation=Preparation(max_side_px=32),
        python=has_it,
        worker=worker,
        **options,
    )


def job(path: str = __file__, *, local_only: bool = False) -> VideoJob:
    def never() -> Any:
        raise AssertionError("the package opens the file itself")

    return VideoJob("scene 1", "scene 1", "oshash:1:1", 20_000, "p", never, local_only, path=path)


def second_of(question: Question) -> int:
    """The double paints its second into the red of the picture."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(question.jpegs[0])) as picture:
        assert max(picture.size) <= 32
        pixel = picture.convert("RGB").getpixel((10, 5))
    assert isinstance(pixel, tuple)
    return round(pixel[0] / 2) * 2


def truth(question: Question) -> Answer:
    second = second_of(question)
    tags = {name: 1.0 for name, span in (("Foul", (4, 8)), ("Dunk", (6, 16))) if span[0] <= second <= span[1]}
    return Answer(Outcome.TAGS if tags else Outcome.NONE, tags, endpoint="Desktop", model="tiny")


def spans(analysis: Analysis) -> Mapping[str, Sequence[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for span in conclude(analysis.samples, analysis.duration_ms, SETTINGS).spans:
        found.setdefault(span.tag, []).append((round(span.start_ms / 100), round(span.end_ms / 100)))
    return found


async def test_its_spans_become_what_was_seen_when(tmp_path: Path) -> None:
    pool, store = Pool(truth), Store()
    analysis = await engine(pool, store, double(tmp_path)).analyse(job())
    assert analysis.asked == len(pool.questions) == 10
    assert spans(analysis) == {"Foul": [(40, 80)], "Dunk": [(60, 160)]}
    assert analysis.coverage == 1
    assert pool.closed == ["scene 1"]
    assert pool.held == 0


async def test_the_same_again_asks_nothing_and_starts_nothing(tmp_path: Path) -> None:
    pool, store = Pool(truth), Store()
    first = await engine(pool, store, double(tmp_path)).analyse(job())
    again = await engine(pool, store, tmp_path / "no such worker").analyse(job())
    assert len(pool.questions) == 10
    assert (again.asked, again.reused) == (0, len(first.samples))
    assert spans(again) == spans(first)


async def test_frames_that_got_no_answer_are_not_frames_without_tags(tmp_path: Path) -> None:
    """The package would call all of them frames without tags, and the scene done."""
    pool, store = Pool(lambda _: Answer(Outcome.ENDPOINT_ERROR, detail="the server answered 500")), Store()
    analysis = await engine(pool, store, double(tmp_path)).analyse(job())
    assert analysis.coverage == 0
    assert analysis.problems == {"the server answered 500": 10}
    assert store.rows == {}


async def test_a_few_that_got_none_are_counted_and_told(tmp_path: Path) -> None:
    def mostly(question: Question) -> Answer:
        return Answer(Outcome.REFUSED, detail="no") if second_of(question) == 18 else truth(question)

    analysis = await engine(Pool(mostly), Store(), double(tmp_path)).analyse(job())
    assert analysis.coverage == 1
    assert analysis.problems == {"no": 1}
    assert set(spans(analysis)) == {"Foul", "Dunk"}


async def test_local_stays_local(tmp_path: Path) -> None:
    pool = Pool(truth)
    await engine(pool, Store(), double(tmp_path)).analyse(job(local_only=True))
    assert {q.local_only for q in pool.questions} == {True}


async def test_an_outage_ends_the_search_as_an_outage(tmp_path: Path) -> None:
    def gone(_: Question) -> Answer:
        raise OutageError("No endpoint can take questions.")

    with pytest.raises(OutageError, match="No endpoint can take questions"):
        await engine(Pool(gone), Store(), double(tmp_path)).analyse(job())


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ('raise ValueError("moov atom not found")', MediaUnreadable, "moov atom not found.*no frame"),
        ('return {"video_tag_info": {"video_duration": 1.0, "tag_timespans": {}}}', MediaUnreadable, "no frame of it"),
        ("os._exit(120)", MediaUnreadable, "ended with code 120; the last it said: the package likes to talk"),
        (
            'print("CUDA out of memory", file=sys.stderr, flush=True); os._exit(1)',
            MediaUnreadable,
            "ended with code 1; the last it said: CUDA out of memory",
        ),
        ('self.ask(3); raise ValueError("out of ideas")', MediaError, "out of ideas"),
    ],
)
async def test_what_it_cannot_do_is_said(tmp_path: Path, what: str, error: type[HavenError], words: str) -> None:
    with pytest.raises(error, match=words):
        await engine(Pool(truth), Store(), double(tmp_path, what)).analyse(job())


async def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    ticks = iter(range(0, 10**9, 1000))
    hanging = engine(
        Pool(truth), Store(), double(tmp_path, "time.sleep(600)"), clock=lambda: float(next(ticks)), patience_s=0.01
    )
    with pytest.raises(MediaUnreadable, match="done nothing"):
        await hanging.analyse(job())


async def test_one_whose_question_is_open_does_not_hang(tmp_path: Path) -> None:
    """A slow model is no fault of the package, however long it takes."""
    pool = Pool(truth)
    pool.hold, ticks = asyncio.Event(), 0

    def clock() -> float:
        nonlocal ticks
        ticks += 1
        if ticks == 200 and pool.hold is not None:
            pool.hold.set()
        return ticks * 0.001

    patient = engine(pool, Store(), double(tmp_path), clock=clock, patience_s=0.1)
    assert (await patient.analyse(job())).asked == 10


async def test_what_the_package_says_is_in_the_debug_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "haven_vlm.vlm_engine"):
        await engine(Pool(truth), Store(), double(tmp_path)).analyse(job())
    assert "vlm-engine: the package likes to talk" in caplog.text


async def test_a_run_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    pool = Pool(truth)
    pool.hold = asyncio.Event()
    what = f'open({str(pid)!r}, "w").write(str(os.getpid()))'
    task = asyncio.create_task(engine(pool, Store(), double(tmp_path, what)).analyse(job()))
    await pool.first_question.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if sys.platform != "win32":
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


async def test_no_key_of_the_environment_reaches_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("EXAMPLE_KEY", "sk-0123456789abcdef")
    what = f'open({str(seen)!r}, "w").write(" ".join(f"{{k}}={{v}}" for k, v in os.environ.items()))'
    await engine(Pool(truth), Store(), double(tmp_path, what)).analyse(job())
    assert "PATH=" in seen.read_text()
    assert "sk-0123456789abcdef" not in seen.read_text()


async def test_a_file_that_is_not_here_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MediaUnreachable, match="path_mutation"):
        await engine(Pool(truth), Store(), tmp_path).analyse(job(path=""))


def test_options_reach_the_package_but_not_the_way_to_the_models() -> None:
    told = {
        "tags": {"Foul": {"MaxGap": "4.000s"}},
        "places": 16,
        "bridge": "http://127.0.0.1:5/v1",
        "key": "k",
        "options": {
            "model": {"max_batch_size": 9, "multiplexer_endpoints": [{"base_url": "https://elsewhere.example/v1"}]},
            "categories": {"Foul": {"MaxGap": "9s"}},
        },
    }
    made = configuration(told)
    model = made["models"]["vlm"]
    assert model["max_batch_size"] == 9
    assert [e["base_url"] for e in model["multiplexer_endpoints"]] == ["http://127.0.0.1:5/v1"]
    assert made["category_config"]["actiondetection"]["Foul"] == {"RenamedTag": "Foul", "MaxGap": "9s"}


REAL = os.environ.get("HAVEN_VLM_ENGINE_PYTHON", "")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="HAVEN_VLM_ENGINE_PYTHON names no Python that has vlm-engine")
async def test_the_real_package_keeps_the_same_contract(tmp_path: Path) -> None:
    from functools import partial

    from demo.footage import Plan, cached_clip, truth_of
    from haven_vlm.facts import Span

    tags = ("Foul", "Dunk")
    plan = Plan(20_000, (Span("Foul", 4_000, 9_000, 1.0), Span("Dunk", 12_000, 17_000, 1.0)), tags, motion="busy")
    clip = cached_clip(tmp_path, plan, size=(320, 180), fps=10, gop=10)
    see = partial(truth_of, tags=tags)

    def answer(question: Question) -> Answer:
        found = {name: 1.0 for name in see(question.jpegs[0])}
        return Answer(Outcome.TAGS if found else Outcome.NONE, found, model="tiny")

    pool, store = Pool(answer, slots=8), Store()
    real = VlmEngine(
        pool=pool,
        store=store,
        progress=Sink(),
        make_prompt=lambda terms: build_prompt(terms),
        terms=tuple(map(Term, tags)),
        settings=SETTINGS,
        preparation=Preparation(max_side_px=320),
        python=lambda: asyncio.to_thread(Path, REAL),
    )
    analysis = await real.analyse(job(str(clip)))
    assert analysis.asked == len(pool.questions) >= 10
    found = spans(analysis)
    assert any(found.values()), "it found nothing at all"
    assert all(0 <= start < end <= 200 for some in found.values() for start, end in some)


def bridge_to(pool: Pool) -> Bridge:
    return Bridge(
        pool=pool,
        prompt=build_prompt((Term("Foul"),)),
        lane="scene 1",
        local_only=False,
        label="scene 1",
        preparation=Preparation(),
        settled=lambda: None,
    )


async def test_nobody_else_on_this_machine_gets_an_answer_from_the_bridge() -> None:
    pool = Pool(truth)
    async with bridge_to(pool) as bridge, aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": bridge.key[:-1]}):
            async with session.post(f"{bridge.base_url}/chat/completions", json={}, headers=headers) as answer:
                assert answer.status == 401
    assert pool.questions == []
    assert bridge.outcomes == {}


def asked_with(*parts: Mapping[str, object]) -> dict[str, object]:
    return {"messages": [{"role": "system", "content": "You see frames."}, {"role": "user", "content": parts}]}


def picture_part(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": []}, "no picture in the question"),
        (asked_with({"type": "text", "text": "which tag?"}), "no picture in the question"),
        (asked_with(picture_part("data:image/jpeg;base64,not*base64")), "vlm-engine sent no picture that can be read"),
        (asked_with(picture_part("data:image/jpeg;base64,bm8gcGljdHVyZQ==")), "cannot identify image file"),
        ({}, "vlm-engine sent no picture that can be read"),
    ],
)
async def test_a_question_without_a_picture_is_no_frame_without_tags(body: Mapping[str, object], reason: str) -> None:
    pool = Pool(truth)
    async with bridge_to(pool) as bridge, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {bridge.key}"}
        async with session.post(f"{bridge.base_url}/chat/completions", json=body, headers=headers) as answer:
            assert answer.status == 200, "the package goes on with its next frame"
    assert pool.questions == []
    assert bridge.outcomes == {Outcome.UNDECODABLE: 1} and bridge.failed == 1
    assert any(reason in problem for problem in bridge.problems)
