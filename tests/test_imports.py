"""The module map as a rule: who may import whom, and which library is known to which module only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROWS: dict[str, int] = {
    "haven_vlm": 0, "haven_vlm.errors": 0, "haven_vlm.facts": 0, "haven_vlm_utility": 0,
    "haven_vlm.likeness": 0, "haven_vlm.spans": 1, "haven_vlm.refinement": 1, "haven_vlm.shots": 1,
    "haven_vlm.sampling": 2, "haven_vlm.timeline": 2,
    "haven_vlm.ports": 1, "haven_vlm.settings": 1, "haven_vlm.prompts": 1, "haven_vlm.progress": 1,
    "haven_vlm.own_thread": 1, "haven_vlm.stash_address": 1, "haven_vlm.stash_faults": 1, "haven_vlm.stash_queries": 1,
    "haven_vlm_config": 2, "haven_vlm.bootstrap": 2,
    "haven_vlm.stash_transport": 2, "haven_vlm.stash_writes": 2, "haven_vlm.stash_wire": 2,
    "haven_media_handler": 3, "haven_vlm.stash_log": 3,
    "haven_vlm.resilience": 1, "haven_vlm.concurrency": 1, "haven_vlm.stations": 1,
    "haven_vlm.scheduling": 2, "haven_vlm.pool_member": 2, "haven_vlm.outage": 3, "haven_vlm.settling": 3,
    "haven_vlm.multiplexer": 4,
    "haven_vlm.framing": 1, "haven_vlm.tone": 1, "haven_vlm.location": 1, "haven_vlm.opening": 2, "haven_vlm.picture": 2,
    "haven_vlm.container": 3, "haven_vlm.decoding": 4, "haven_vlm.frame_image": 4, "haven_vlm.ffmpeg_cli": 4,
    "haven_vlm.media": 5, "haven_vlm.reading": 6,
    "haven_vlm.zips": 2, "haven_vlm.fetching": 2, "haven_vlm.stills": 3, "haven_vlm.still_reading": 4,
    "haven_vlm.selection": 2, "haven_vlm.together": 2, "haven_vlm.image_engine": 2,
    "haven_vlm.privacy": 1, "haven_vlm.confidence": 1, "haven_vlm.endpoint_faults": 1,
    "haven_vlm.chat": 2, "haven_vlm.endpoint_troubles": 2, "haven_vlm.endpoint_transport": 3,
    "haven_vlm.server_survey": 4, "haven_vlm.capability": 5, "haven_vlm.endpoint": 6,
    "haven_vlm.reports": 3,
    "haven_vlm_engine": 4,
    "haven_vlm.tasks": 5,
    "haven_vlm_connector": 7,
}  # fmt: skip
"""Row of each module in docs/architecture.md; a file imports only from smaller rows, within row 0 also from equals."""

ONLY = {
    "av": {
        "haven_vlm.opening",
        "haven_vlm.container",
        "haven_vlm.decoding",
        "haven_vlm.frame_image",
        "haven_vlm.media",
    },
    "aiohttp": {
        "haven_vlm.endpoint_transport",
        "haven_vlm.endpoint_troubles",
        "haven_vlm.fetching",
        "haven_vlm_connector",
    },
    "stashapi": {"haven_media_handler"},
    "requests": {"haven_vlm.stash_transport"},
    "sqlite3": {"haven_vlm.journal"},
    "yaml": {"haven_vlm_config"},
}
"""Library → the modules that may know it."""

PRODUCTION = [*sorted((ROOT / "haven_vlm").glob("**/*.py")), *sorted(ROOT.glob("haven_*.py"))]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            yield node.module


@pytest.mark.parametrize("file", PRODUCTION, ids=module_name)
def test_imports_point_downwards(file: Path) -> None:
    name = module_name(file)
    assert name in ROWS, f"{name} has no row yet: add it to the module map"
    for imported in imports(file):
        top = imported.split(".")[0]
        assert top not in ("demo", "tests", "bench"), f"{name} imports {imported}"
        if imported in ROWS:
            below = ROWS[imported] < ROWS[name] or ROWS[imported] == ROWS[name] == 0
            assert below, f"{name} (row {ROWS[name]}) imports {imported} (row {ROWS[imported]})"
            if name.startswith("haven_vlm."):
                assert imported.startswith("haven_vlm.") or imported == "haven_vlm_utility", f"{name}: {imported}"
        for library, knowers in ONLY.items():
            if top == library:
                assert name in knowers, f"{name} imports {imported}"


def test_no_other_yml_file_lies_below_the_plugin() -> None:
    found = [p.relative_to(ROOT) for p in ROOT.rglob("*.yml") if not p.relative_to(ROOT).parts[0].startswith(".")]
    assert [str(p) for p in found] == ["ahavenvlmconnector.yml"]
