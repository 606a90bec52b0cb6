"""A vocabulary too long for one question is asked in slices; their answers together are the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from haven_vlm.facts import Answer, Outcome, Sample, Term


def slices(terms: Sequence[Term], most: int) -> list[tuple[Term, ...]]:
    """Terms in as few groups of at most `most` as possible, all about equally long, in the same order."""
    count = -(-len(terms) // most)
    return [tuple(terms[len(terms) * n // count : len(terms) * (n + 1) // count]) for n in range(count)]


def joined(sample: Sample, answer: Answer) -> Sample:
    """What is known of a moment after one more answer, about other terms. A failure is a failure of the moment."""
    if not answer.outcome.analysed:
        return replace(sample, outcome=answer.outcome, tags={}, model=answer.model)
    tags = {**sample.tags, **answer.tags}
    return replace(sample, outcome=Outcome.TAGS if tags else Outcome.NONE, tags=tags, model=answer.model)
