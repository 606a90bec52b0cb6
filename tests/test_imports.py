"""The module map as a rule: who may import whom, and which library is known to which module only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS: tuple[tuple[str, str], ...] = (
    ("basics", "haven_vlm errors facts haven_vlm_utility likeness probing location other_programs"),
    (
        "contracts and pure logic",
        """ports pool_ports stash_ports settings prompts replies several progress reports page_data spans refinement
        shots sampling timeline resilience budget concurrency stations confidence framing tone privacy endpoint_faults
        corrections collection ownership undo_plan lanes report_html agreement reviewed marker_search yaml_edit tuning
        tuning_text evaluating examples selection slicing vocabulary task_options together stash_address stash_faults
        stash_queries setting_texts setting_layers""",
    ),
    (
        "adapters",
        """haven_vlm_config haven_media_handler bootstrap pip_calls files settings_file run_lock own_thread crew zips
        live live_files live_status live_runs stash_client stash_transport stash_tags stash_writes stash_wire stash_log
        opening picture container decoding frame_image ffmpeg_cli media reading fetching stills still_reading
        media_access collection_files
        chat endpoint_troubles endpoint_transport server_survey model_choice capability judging endpoint
        journal journal_answers journal_corrections journal_damage journal_ownership journal_runs journal_schema
        journal_spending journal_thread vlm_engine_install""",
    ),
    (
        "services",
        """endpoint_watch scheduling spending pool_member pool_statistics outage settling multiplexer applying undoing
        reviewing report_book batch_writing marks""",
    ),
    (
        "engines",
        "haven_vlm_engine video_look image_engine image_looking vlm_engine vlm_engine_bridge vlm_engine_worker",
    ),
    (
        "runs",
        """evidence learning example_pictures videos images galleries image_task flags collection_pictures collecting
        collect_task""",
    ),
    ("tasks", "tasks task_context earlier_runs media_task undo_task checking endpoint_check page_operations"),
    ("edge", "haven_vlm_connector command_line exit_codes"),
)
"""Layers of docs/architecture.md, lowest first. A file imports from its own and those below, never in a circle."""

ROWS = {
    name if name.startswith("haven_") else f"haven_vlm.{name}": row
    for row, (_, names) in enumerate(LAYERS)
    for name in names.split()
}

ONLY = {
    "av": {"opening", "container", "decoding", "frame_image", "media"},
    "aiohttp": {"endpoint_transport", "endpoint_troubles", "fetching", "vlm_engine_bridge"},
    "stashapi": {"stash_client"},
    "requests": {"stash_transport"},
    "sqlite3": {
        "journal", "journal_answers", "journal_corrections", "journal_damage", "journal_ownership", "journal_runs",
        "journal_schema", "journal_spending", "journal_thread",
    },
    "yaml": {"haven_vlm_config"},
}  # fmt: skip
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
    assert name in ROWS, f"{name} has no layer yet: add it to the module map"
    for imported in imports(file):
        top = imported.split(".")[0]
        assert top not in ("demo", "tests", "bench", "docs", "release"), f"{name} imports {imported}"
        if imported in ROWS:
            assert ROWS[imported] <= ROWS[name], f"{name} ({ROWS[name]}) imports {imported} ({ROWS[imported]})"
            if name.startswith("haven_vlm."):
                assert imported.startswith("haven_vlm.") or imported == "haven_vlm_utility", f"{name}: {imported}"
        if top in ONLY:
            assert name.removeprefix("haven_vlm.") in ONLY[top], f"{name} imports {imported}"


def test_nothing_imports_in_a_circle() -> None:
    graph = {module_name(f): [i for i in imports(f) if i in ROWS] for f in PRODUCTION}
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def test_the_map_names_no_module_that_is_gone() -> None:
    assert set(ROWS) == {module_name(f) for f in PRODUCTION}


def test_no_other_yml_file_lies_below_the_plugin() -> None:
    """Stash tries every one of them as a manifest, in hidden folders, too."""
    ours = [p for p in ROOT.rglob("*.yml") if p.relative_to(ROOT).parts[0] not in (".venv", ".haven-environment")]
    assert [str(p.relative_to(ROOT)) for p in ours] == ["ahavenvlmconnector.yml"]
