"""Tries one endpoint as a run would use it: what it can do, how fast it is, how many questions at once are of use."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Callable, Sequence

from PIL import Image

from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.facts import Answer, Outcome, Prompt, Question
from haven_vlm.page_data import CheckItem, CheckSection, Verdict, cut
from haven_vlm.pool_ports import Capabilities, VisionEndpoint

ENOUGH_S = 30.0
"""Measuring ends after so many seconds, whatever is still unknown."""
ASK_S = 120.0
"""So long one question of the measurement may take."""
LEVELS = (1, 2, 4, 8)
"""Questions at once that are tried."""
GAIN = 1.15
"""More at once must be worth that much to be worth it."""

_SIDE_PX = (640, 360)

_FALLBACK_FIX = {
    EndpointFault.AUTH: "Set the key the server wants: key_env= with the name of an environment variable.",
    EndpointFault.CONTEXT: "Give the model a larger context on the server (4096 tokens or more), or lower "
    "image_max_side and shorten the tag list.",
    EndpointFault.MODEL: "Load a vision model there, or set `model` to one that sees pictures.",
    EndpointFault.LOADING: "Wait until the model is loaded, and check again.",
    EndpointFault.NOT_AN_API: "Check base_url: it ends in /v1, for example http://192.168.1.20:1234/v1.",
    EndpointFault.SERVER: "Look into the server's log. If a proxy stands in between, let this address pass it by.",
    EndpointFault.RATE_LIMITED: "Lower `max_concurrent` of this endpoint, or wait.",
    EndpointFault.TIMEOUT: "Raise `timeout` of this endpoint, or use a smaller model.",
    EndpointFault.CONNECT: "Start the model server, and check address, port and firewall.",
}
_FIX_SIGHT = "Load a vision model, together with its projector (mmproj) where the server wants one."
_WANTS_PROXY_LOGIN = 407
_FROM_PROXIES = (502, 504)
"""Statuses that a model server does not give by itself."""
_FIX_PROXY = (
    "This is the answer of a proxy in between: use the model server's own address, or mend what the proxy forwards to."
)
_PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_NO_PROXY_USED = (
    "The proxy that this machine's environment names (HTTP_PROXY) is not used: frames go straight to the address, so "
    "that it is certain where they go."
)
_FIX_THINKING = (
    "The model spends its tokens on thinking: turn thinking off on the server, or use a model that does not think "
    "(an “instruct” one)."
)


async def check_endpoint(
    endpoint: VisionEndpoint, prompt: Prompt, *, clock: Callable[[], float] = time.monotonic
) -> CheckSection:
    """Try one endpoint with pictures: what it can do, or what to mend. Never raises for what the server does."""

    def section(*items: CheckItem) -> CheckSection:
        return CheckSection("endpoint", endpoint.name, endpoint.base_url, items)

    try:
        found = await endpoint.prepare()
    except EndpointError as exc:
        return section(_problem("reachable", exc))
    items = [CheckItem("reachable", Verdict.OK, "answers"), *_abilities(found)]
    items += await _measured(endpoint, found, prompt, clock)
    return section(*items)


def _problem(name: str, exc: EndpointError) -> CheckItem:
    fix = exc.fix or _FALLBACK_FIX.get(exc.fault, "")
    if exc.status == _WANTS_PROXY_LOGIN:
        fix = _FIX_PROXY  # a key of the endpoint would be no login to the proxy
    elif exc.status in _FROM_PROXIES:
        fix = f"{_FIX_PROXY} {fix}".strip()
    elif exc.fault in (EndpointFault.CONNECT, EndpointFault.TIMEOUT) and any(map(os.environ.get, _PROXY_VARIABLES)):
        fix = f"{fix} {_NO_PROXY_USED}"
    return CheckItem(name, Verdict.PROBLEM, cut(str(exc), 500), fix)


def _abilities(found: Capabilities) -> list[CheckItem]:
    def item(name: str, text: str, *, fix: str = "", verdict: Verdict | None = None) -> CheckItem:
        return CheckItem(name, verdict or (Verdict.NOTE if fix else Verdict.OK), text, fix)

    items = [item("server", found.server), item("model", found.model)]
    unseen = any("sees pictures" in note for note in found.notes) or not found.sees_pictures
    if unseen:
        text = "asked for the colour of plain pictures, it gave no right answer"
        items.append(item("sees pictures", text, fix=_FIX_SIGHT, verdict=Verdict.PROBLEM))
    else:
        items.append(item("sees pictures", "yes"))
    fix = "" if found.json_schema == "enforced" else "Nothing must be done: answers are checked all the same."
    items.append(item("JSON schema", found.json_schema, fix=fix))
    items.append(item("probabilities", "yes" if found.logprobs else "no: confidences come from the answers alone"))
    always = found.thinking == "always"
    items.append(item("thinking", found.thinking, fix=_FIX_THINKING if always else ""))
    if found.several_pictures and not always:
        most = found.most_pictures
        items.append(item("pictures a question", f"up to {most}" if most else "several"))
    items.append(item("where", "outside the local network, as allowed" if found.is_remote else "local"))
    items += [item("note", note) for note in found.notes if "sees pictures" not in note]
    return items


async def _measured(
    endpoint: VisionEndpoint, found: Capabilities, prompt: Prompt, clock: Callable[[], float]
) -> list[CheckItem]:
    """Ask as a run asks, one question at a time and then more at once, and say what came of it."""
    began, asked = clock(), 0
    best_level, best_rate = 1, 0.0
    answers: list[Answer] = []
    for level in LEVELS:
        started = clock()
        questions = [_question(prompt, asked + n) for n in range(level)]
        asked += level
        results = await asyncio.gather(*(_ask(endpoint, q) for q in questions))
        faults = [r for r in results if isinstance(r, EndpointError)]
        if faults:
            if level == 1:
                return [_problem("a real question", faults[0])]
            break  # it takes fewer at once: what was measured before holds
        answers += [r for r in results if isinstance(r, Answer)]
        if level == 1 and not answers[0].outcome.analysed:
            return [_bad_answer(answers[0])]
        rate = level / max(clock() - started, 1e-6)
        if rate < best_rate * GAIN:
            break
        best_level, best_rate = level, rate
        if clock() - began > ENOUGH_S:
            break
    tokens = sum(a.tokens_in for a in answers) / len(answers)
    cached = sum(a.tokens_cached for a in answers) / max(1, sum(a.tokens_in for a in answers))
    hint = f"; the server says {found.parallel_hint}" if found.parallel_hint else ""
    return [
        CheckItem("a real question", Verdict.OK, "answered"),
        CheckItem("speed", Verdict.OK, f"about {best_rate * 60:,.0f} frames a minute"),
        CheckItem("tokens a frame", Verdict.OK, f"{tokens:,.0f} in, {cached:.0%} of them cached by the server"),
        CheckItem("useful at once", Verdict.OK, f"{best_level} questions{hint}"),
    ]


def _bad_answer(answer: Answer) -> CheckItem:
    text = f"{answer.outcome}: {cut(answer.detail, 300)}" if answer.detail else str(answer.outcome)
    fix = {
        Outcome.TRUNCATED: _FIX_THINKING,
        Outcome.REFUSED: "The model declines to look at a plain picture: use another one.",
        Outcome.FILTERED: "A content filter of the server is in the way: turn it off, or use another server.",
    }.get(answer.outcome, "Use another model: this one does not keep to the form of the answer.")
    return CheckItem("a real question", Verdict.PROBLEM, text, fix)


async def _ask(endpoint: VisionEndpoint, question: Question) -> Answer | EndpointError:
    try:
        return await endpoint.ask(question, connect_timeout_s=10.0, total_timeout_s=ASK_S)
    except EndpointError as exc:
        return exc


def _question(prompt: Prompt, number: int) -> Question:
    """A question about a picture that differs from all others, so that no server answers from a cache."""
    image = Image.linear_gradient("L").resize(_SIDE_PX).rotate(number * 17, fillcolor=number * 29 % 256).convert("RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return Question(prompt, (out.getvalue(),), local_only=False, label=f"check {number + 1}")


def as_table(sections: Sequence[CheckSection]) -> str:
    """The whole check as text for the log: a line for each finding, and its fix below."""
    marks = {Verdict.OK: "✓", Verdict.NOTE: "•", Verdict.PROBLEM: "✗"}
    width = max((len(i.name) for s in sections for i in s.items), default=0)
    lines = []
    for section in sections:
        lines.append(f"{section.title} ({section.address})" if section.address else section.title)
        for item in section.items:
            lines.append(f"  {marks[item.verdict]} {item.name:<{width}}  {cut(item.text, 1000)}")
            if item.fix:
                lines.append(f"    {'':<{width}}  → {cut(item.fix, 1000)}")
    return "\n".join(lines)
