"""What sampling and timeline are tested with: truths, models, and a run that asks until nothing is wanted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from haven_vlm.facts import Outcome, Sample
from haven_vlm.ports import Sampler
from haven_vlm.settings import Settings

TAGS = ("Dunk", "Foul", "Timeout")

Truth = Mapping[str, tuple[tuple[int, int], ...]]
"""Tag → its spans in milliseconds: start included, end not."""

Answer = Callable[[int], Sample]


def settings(**changes: object) -> Settings:
    """Defaults for three tags; changes win."""
    base = {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": list(TAGS)}
    return Settings.model_validate({**base, **changes})


def sample(at_ms: int, *tags: str, confidence: float = 0.99, inherited_from_ms: int | None = None) -> Sample:
    """An analysed moment at which these tags were named."""
    named = dict.fromkeys(tags, confidence)
    return Sample(at_ms, at_ms, Outcome.TAGS if named else Outcome.NONE, named, inherited_from_ms=inherited_from_ms)


def failed(at_ms: int, outcome: Outcome = Outcome.ENDPOINT_ERROR) -> Sample:
    """A moment that was looked at in vain."""
    return Sample(at_ms, at_ms, outcome)


def seen(*samples: Sample) -> dict[int, Sample]:
    """Samples by time."""
    return {s.at_ms: s for s in samples}


def right(truth: Truth) -> Answer:
    """A model that always tells the truth."""

    def answer(at_ms: int) -> Sample:
        return sample(at_ms, *(t for t, spans in truth.items() if any(a <= at_ms < b for a, b in spans)))

    return answer


def moody(seed: int, *, fails: float = 0.0) -> Answer:
    """A model that says anything, with any confidence, or fails; the same whenever it is asked the same."""

    def answer(at_ms: int) -> Sample:
        dice = random.Random(f"{seed} {at_ms}")
        if dice.random() < fails:
            return failed(at_ms, dice.choice([o for o in Outcome if not o.analysed]))
        tags = {t: dice.random() for t in TAGS if dice.random() < 0.5}
        return Sample(at_ms, at_ms, Outcome.TAGS if tags else Outcome.NONE, tags)

    return answer


def run(
    sampler: Sampler, answer: Answer, *, dice: random.Random | None = None, known: Iterable[Sample] = ()
) -> dict[int, Sample]:
    """Ask until nothing is wanted; with `dice` only some of what is wanted at a time, in any order."""
    found = seen(*known)
    for _ in range(100_000):
        now = list(sampler.wish(found).now)
        if not now:
            return found
        assert not found.keys() & set(now), "a moment was wanted twice"
        assert now == sorted(set(now))
        if dice is not None:
            dice.shuffle(now)
            now = now[: dice.randint(1, len(now))]
        for at_ms in now:
            found[at_ms] = answer(at_ms)
    raise AssertionError("the sampler never comes to an end")


def looks(sampler: Sampler) -> list[tuple[int, list[int], list[int]]]:
    """Each fixed moment, what is asked instead if it fails, and what if a tag is seen there and nowhere else."""
    scan = sampler.wish({}).now

    def beyond(answer: Answer) -> list[int]:
        return [t for t in run(sampler, answer) if t not in scan]

    return [
        (
            at_ms,
            beyond(lambda t, at_ms=at_ms: failed(t) if t == at_ms else sample(t)),  # type: ignore[misc]
            beyond(lambda t, at_ms=at_ms: sample(t, *(TAGS[:1] if t == at_ms else ()))),  # type: ignore[misc]
        )
        for at_ms in scan
    ]
