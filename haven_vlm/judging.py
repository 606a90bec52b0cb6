"""What an endpoint's reply amounts to: one honest outcome, with the tags and how sure they are. Pure."""

from __future__ import annotations

import json
from dataclasses import replace

from haven_vlm.capability import Heard
from haven_vlm.chat import Reply
from haven_vlm.confidence import confidences
from haven_vlm.facts import Answer, Outcome, Prompt
from haven_vlm.replies import parse_reply
from haven_vlm.several import parse_several, tokens_of_each

MAX_RAW_CHARACTERS = 4000
"""Of what a model wrote, kept for people to read."""


def judged(heard: Heard, prompt: Prompt, *, endpoint: str, model: str) -> Answer:
    """The answer that a reply amounts to, whatever it is."""
    reply = heard.reply
    if reply is None:
        return Answer(
            heard.outcome or Outcome.UNPARSABLE,
            endpoint=endpoint,
            model=model,
            detail=heard.detail,
            latency_s=heard.seconds,
            remote=heard.is_remote,
        )
    if prompt.pictures > 1:
        return _several(heard, reply, prompt, endpoint=endpoint, model=model)
    outcome, detail, text = _first_look(reply)
    tags: dict[str, float] = {}
    unknown = 0
    if outcome is None:
        parsed = parse_reply(text, prompt)
        outcome, detail, unknown = parsed.outcome, parsed.detail, parsed.unknown_words
        words = {t.name: (t.name, *t.aliases) for t in prompt.terms if t.name in parsed.tags}
        tags = confidences(reply.tokens, words) if words else {}
    return Answer(
        outcome,
        tags=tags,
        endpoint=endpoint,
        model=model,
        raw=(reply.text or reply.refusal or reply.reasoning)[:MAX_RAW_CHARACTERS],
        detail=detail,
        unknown_words=unknown,
        latency_s=heard.seconds,
        tokens_in=reply.tokens_in,
        tokens_cached=reply.tokens_cached,
        tokens_out=reply.tokens_out,
        remote=heard.is_remote,
    )


def _several(heard: Heard, reply: Reply, prompt: Prompt, *, endpoint: str, model: str) -> Answer:
    """The answer about several pictures, and that about each."""
    outcome, detail, text = _first_look(reply)
    whole = Answer(
        outcome or Outcome.UNPARSABLE,
        endpoint=endpoint,
        model=model,
        raw=(reply.text or reply.refusal or reply.reasoning)[:MAX_RAW_CHARACTERS],
        detail=detail,
        latency_s=heard.seconds,
        tokens_in=reply.tokens_in,
        tokens_cached=reply.tokens_cached,
        tokens_out=reply.tokens_out,
        remote=heard.is_remote,
    )
    if outcome is not None:
        return whole
    each = []
    tokens = tokens_of_each(reply.tokens, prompt.pictures)
    for parsed, own in zip(parse_several(text, prompt), tokens, strict=True):
        words = {t.name: (t.name, *t.aliases) for t in prompt.terms if t.name in parsed.tags}
        tags = confidences(own, words)
        plain = replace(whole, latency_s=heard.seconds / prompt.pictures, tokens_in=0, tokens_cached=0, tokens_out=0)
        each.append(
            replace(plain, outcome=parsed.outcome, tags=tags, detail=parsed.detail, unknown_words=parsed.unknown_words)
        )
    best = next((a for a in each if a.outcome.analysed), each[0])
    return replace(whole, outcome=best.outcome, detail=best.detail, each=tuple(each))


def _first_look(reply: Reply) -> tuple[Outcome | None, str, str]:
    """Tell what is no answer to be read: outcome (None: read it), why, and the text to read."""
    text = reply.text
    if reply.is_filtered:
        return Outcome.FILTERED, f"the server's filter took the answer away ({reply.finish})", ""
    if reply.refusal.strip() and not text.strip():
        return Outcome.REFUSED, "the model declined to look", ""
    if reply.is_cut and not reply.is_whole_json:
        thinking = reply.reasoning.strip() and not text.strip()
        return Outcome.TRUNCATED, "thinking took the whole budget" if thinking else "the answer was cut", ""
    if not text.strip() and _is_json_object(reply.reasoning):
        text = reply.reasoning  # some servers file the whole answer under thinking when thinking is off
    if not text.strip():
        return Outcome.UNPARSABLE, "only thinking, no answer" if reply.reasoning.strip() else "the answer is empty", ""
    return None, "", text


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
