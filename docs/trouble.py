"""The page of troubles: what to do, by topic, and every sentence that the code can say, in its topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from docs.page_sentences import page_sentences
from docs.sentences import sentences
from docs.trouble_topics import OTHER, TOPICS, Case, Topic

ROOT = Path(__file__).resolve().parent.parent

_INTRODUCTION = """\
# When something goes wrong

<!-- Made by `python -m docs.generate`: the sentences come from the code, what to do from docs/trouble_topics.py. -->

Start with the task **Check Endpoints**: it tries model servers, settings, Stash, some files, ledger and disk, and says
what to mend. What a task says at its end stands in Stash's log (Settings → Logs) and in its report.

Nothing is lost when a run fails: answers are kept, media that are not finished keep `VLM_TagMe`, and the next run goes
on where this one ended.

Search this page for the sentence you saw; `…` stands for a name, a number or a reason. Above each list stands what to
do.
"""


def files() -> list[Path]:
    """Every file of the product."""
    own = [*sorted((ROOT / "haven_vlm").glob("*.py")), *sorted(ROOT.glob("haven_*.py"))]
    return [*own, *sorted((ROOT / "page").glob("*.js"))]


def said_in(file: Path) -> list[str]:
    """The sentences of a file of the product."""
    return page_sentences(file) if file.suffix == ".js" else sentences(file)


def topic_of(module: str) -> Topic:
    """The topic of a module's sentences."""
    return next((t for t in TOPICS if t.has(module)), OTHER)


def by_case(topic: Topic, found: Iterable[str]) -> dict[Case | None, list[str]]:
    """The sentences of a topic under what is to be done about them; None: what speaks for itself."""
    grouped: dict[Case | None, list[str]] = {case: [] for case in (*topic.cases, None)}
    for text in sorted(set(found), key=str.casefold):
        grouped[next((case for case in topic.cases if case.has(text)), None)].append(text)
    return grouped


def trouble_page() -> str:
    """docs/trouble.md."""
    said = {file.stem: found for file in files() if (found := said_in(file))}
    parts = [_INTRODUCTION]
    for topic in (*TOPICS, OTHER):
        found = [text for module, texts in said.items() if topic_of(module) is topic for text in texts]
        if not found:
            continue
        parts.append(f"\n## {topic.title}\n{topic.advice and chr(10)}{topic.advice}")
        for case, texts in by_case(topic, found).items():
            if texts and case is not None:
                parts += [f"\n### {case.title}\n\n**What to do:** {case.todo}\n\n", *_listed(texts)]
            elif texts:
                parts += ["\n### What speaks for itself\n\n", *_listed(texts)]
    return "".join(parts)


def _listed(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield f"- {text.replace('<', '&lt;').replace('*', '&#42;').replace('_', chr(92) + '_')}\n"
