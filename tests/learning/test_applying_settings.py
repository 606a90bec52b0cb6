"""Applying a proposal: what a person may have done to it since, and to the settings."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bench.scoring import settings
from haven_vlm.errors import ConfigError
from haven_vlm.learning import Learning
from haven_vlm.picture import Preparation
from haven_vlm.settings import Settings
from haven_vlm.settings_file import PROPOSED, SettingsFile
from haven_vlm.tuning_text import vocabulary_key
from haven_vlm_config import YAML_NAME, load_settings, outline_yaml, parse_yaml

NOW = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
TODAY = settings(tag_list=["Foul", {"name": "Dunk", "threshold": 0.6}])


def learning(folder: Path, today: Settings = TODAY) -> Learning:
    file = SettingsFile(folder / YAML_NAME, spare_dir=folder / "data", parse=parse_yaml, outline=outline_yaml)
    nobody = cast(Any, None)  # applying asks neither Stash nor the ledger
    return Learning(today, nobody, nobody, file, Preparation(), "", folder / "data", lambda: NOW, lambda _: None)


def propose(folder: Path, tags: str, *, key: str | None = None) -> None:
    head = f'proposal:\n  vocabulary: "{key or vocabulary_key(TODAY)}"\n'
    (folder / PROPOSED).write_text(f"{head}tag_settings:\n{tags}", encoding="utf-8")


async def test_what_was_changed_in_the_proposal_is_applied_as_it_stands_there(tmp_path: Path) -> None:
    propose(tmp_path, "  foul: {max_gap: 7s, threshold: 0.5}\n  Dunk:\n    threshold: 0.25 # mine\n")
    said = await learning(tmp_path).apply_marker_settings()
    assert "Foul: max_gap 4s → 7s" in said and "Dunk: threshold 0.6 → 0.25" in said
    assert "threshold 0.5" not in said  # it is in effect already
    page = {"tag_list": "Foul, Dunk"}
    loaded = await asyncio.to_thread(
        load_settings, plugin_dir=tmp_path, config_dir=None, page=page, arguments={}, environ={}
    )
    foul, dunk = loaded.settings.tuned_tags
    assert (str(foul.max_gap), foul.threshold, dunk.threshold) == ("7s", None, 0.25)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("  Block: {threshold: 0.2}\n", "“Block” is not in the tag list"),
        ("  Foul: {threshold: 2}\n", "tag_settings.Foul.threshold"),
        ("  Foul: {max_gap: soon}\n", "tag_settings.Foul.max_gap"),
        ("  Foul: {speed: 2}\n", "tag_settings.Foul.speed"),
        ("  Foul: 3\n", "tag_settings.Foul"),
        ("  {}\n", "no proposal of Find Marker Settings"),
    ],
)
async def test_mistakes_in_the_proposal_are_named_and_nothing_is_written(tmp_path: Path, tags: str, said: str) -> None:
    propose(tmp_path, tags)
    with pytest.raises(ConfigError) as caught:
        await learning(tmp_path).apply_marker_settings()
    assert said in str(caught.value) and PROPOSED in str(caught.value)
    assert not (tmp_path / YAML_NAME).exists()


@pytest.mark.parametrize(
    "later",
    [
        {"tag_list": ["Foul"]},
        {"tag_list": ["Foul", {"name": "Dunk", "definition": "From above."}]},
        {"tag_list": ["Foul", "Dunk"], "instructions": "Look twice."},
    ],
)
async def test_a_proposal_of_another_vocabulary_is_refused(tmp_path: Path, later: dict[str, Any]) -> None:
    propose(tmp_path, "  Foul: {threshold: 0.2}\n")
    with pytest.raises(ConfigError, match="other tags or definitions"):
        await learning(tmp_path, settings(**later)).apply_marker_settings()


async def test_other_thresholds_since_make_no_proposal_stale(tmp_path: Path) -> None:
    propose(tmp_path, "  Foul: {threshold: 0.2}\n")
    later = settings(tag_list=["Foul", "Dunk"], threshold=0.4)
    assert "Foul: threshold 0.4 → 0.2" in await learning(tmp_path, later).apply_marker_settings()
