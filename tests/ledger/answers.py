"""Questions and answers about basketball."""

from __future__ import annotations

from collections.abc import Mapping

from haven_vlm.facts import Answer, Outcome, Term
from haven_vlm.ports import AnswerKey
from haven_vlm.prompts import build_prompt

DUNK, FOUL, BLOCK = Term("Dunk", "The ball is pushed down through the hoop."), Term("Foul"), Term("Block")
MODELS = frozenset({"seer-7b"})


def key(*terms: Term, identity: str = "oshash:00ff:1000", picture: str = "640q85", instructions: str = "") -> AnswerKey:
    return AnswerKey(identity, picture, build_prompt(terms or (DUNK, FOUL), instructions=instructions))


def answer(
    *names: str, model: str = "seer-7b", tags: Mapping[str, float] | None = None, **confidences: float
) -> Answer:
    tags = {**dict.fromkeys(names, 1.0), **confidences, **(tags or {})}
    return Answer(Outcome.TAGS if tags else Outcome.NONE, tags, "attic", model, raw='{"tags":[]}')
