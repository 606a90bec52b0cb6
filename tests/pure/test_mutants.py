"""The changes of `bench.mutation` are the ones it names, each by itself."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from bench.equivalents import EQUIVALENT
from bench.mutants import marked, mutants_of, mutated
from bench.mutation import GROUPS, TESTS, put_in_place

ROOT = Path(__file__).resolve().parent.parent.parent

SOURCE = '''"""Docstring 1."""

LIMIT = 3


@dataclass(frozen=True)
class Counter:
    start: int = field(default=4, init=False)

    def add(self, n: int = 1) -> bool:
        """Docstring 2."""
        assert n > 0
        if n < LIMIT and not self.full:
            self.total += n
            dict(zip(self.a, self.b, strict=True))
        return self.total >= LIMIT
'''

CHANGES = [
    "3 → 4",
    "4 → 5",
    "1 → 2",
    "n < LIMIT and (not self.full) → n < LIMIT or not self.full",
    "n < LIMIT → n <= LIMIT",
    "n < LIMIT → n >= LIMIT",
    "not self.full → self.full",
    "self.total += n → self.total -= n",
    "dict(zip(self.a, self.b, strict=True)) → pass",
    "return self.total >= LIMIT → return None",
    "self.total >= LIMIT → self.total > LIMIT",
    "self.total >= LIMIT → self.total < LIMIT",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "counter.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_every_place_is_changed_and_what_is_only_said_is_not(file: Path) -> None:
    found = mutants_of("counter", file)
    assert [m.change for m in found] == CHANGES
    assert [m.number for m in found] == list(range(len(found)))
    assert {m.function for m in found} == {"", "Counter.add"}
    assert {m.text for m in found if not m.function} == {"LIMIT = 3", "start: int = field(default=4, init=False)"}


def test_a_mutant_differs_in_its_change_alone(file: Path) -> None:
    plain = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in mutants_of("counter", file):
        changed = ast.unparse(mutated(file, mutant.number)).splitlines()
        (pair,) = [(old, new) for old, new in zip(plain, changed, strict=True) if old != new]
        before, after = mutant.change.split(" → ")
        assert before in pair[0]
        assert after in pair[1]
    with pytest.raises(IndexError):
        mutated(file, len(CHANGES))


def test_functions_tell_when_they_are_called(file: Path) -> None:
    told: list[str] = []
    names: dict[str, object] = {"told": told.append}
    names |= {"dataclass": dataclass, "field": field}
    exec(compile(marked(file, "told"), str(file), "exec"), names)
    counter = type("Full", (), {"full": True, "total": 5})()
    assert names["Counter"].add(counter) is True  # type: ignore[attr-defined]
    assert told == ["Counter.add"]


def test_what_is_left_out_of_the_count_exists() -> None:
    modules = [name for names in GROUPS.values() for name in names]
    known = {m.key for name in modules for m in mutants_of(f"haven_vlm.{name}", ROOT / "haven_vlm" / f"{name}.py")}
    assert set(EQUIVALENT) <= known
    assert all((ROOT / path).is_file() for paths in TESTS.values() for path in paths)


HELD = '''"""Things that others hold."""

import re
from dataclasses import dataclass, field

LINES = re.compile("^.", re.MULTILINE | re.DOTALL)
SIDES = {"left": 1}


@dataclass(slots=True)
class Score:
    points: int = 2
    fouls: int = field(default=4, init=False)

    def doubled(self) -> int:
        return self.points * 3
'''


@pytest.fixture
def held(tmp_path: Path) -> Iterator[ModuleType]:
    file = tmp_path / "haven_held.py"
    file.write_text(HELD, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("haven_held", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["haven_held"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["haven_held"]


def _state(module: ModuleType) -> list[object]:
    score = module.Score()
    lines: re.Pattern[str] = module.LINES
    return [lines.flags & re.MULTILINE, module.SIDES["left"], score.points, score.fouls, score.doubled()]


def test_a_change_reaches_whoever_holds_the_module(held: ModuleType) -> None:
    assert held.__file__ is not None
    file = Path(held.__file__)
    plain = _state(held)
    changes = [m for m in mutants_of("haven_held", file) if "return" not in m.change]
    assert [m.change for m in changes] == [
        "re.MULTILINE | re.DOTALL → re.MULTILINE & re.DOTALL",
        "1 → 2",
        "2 → 3",
        "4 → 5",
        "self.points * 3 → self.points / 3",
        "3 → 4",
    ]
    for mutant in changes:
        put_in_place(held, mutated(file, mutant.number))
        assert _state(held) != plain, mutant
        put_in_place(held, ast.parse(HELD))
        assert _state(held) == plain, mutant
