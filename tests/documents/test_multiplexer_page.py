"""Each promise of the pool's page has a test, and the test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "multiplexer.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(".")[0].strip("| "))
def test_the_modules_and_the_test_of_a_promise_exist(row: str) -> None:
    _, modules, guard = (cell.strip() for cell in row.strip("| ").split(" | "))
    for module in re.findall(r"`(\w+)`", modules):
        assert (ROOT / "haven_vlm" / f"{module}.py").is_file()
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", guard)
    assert named is not None
    tree = ast.parse((ROOT / named[1]).read_text(encoding="utf-8"))
    assert named[2] in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_no_promise_is_missing() -> None:
    numbers = [int(row.split(".")[0].strip("| ")) for row in ROWS]
    told = {int(n) for n in re.findall(r"\((\d+)\)", PAGE.partition("*What is left:*")[2])}
    assert sorted({*numbers, *told}) == list(range(1, 28))
