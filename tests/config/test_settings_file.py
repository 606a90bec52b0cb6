"""Writing into the user's file of settings: only what is meant, whatever else is in it, and a copy kept."""

from __future__ import annotations

import stat
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import ConfigError
from haven_vlm.settings_file import PROPOSED, SettingsFile
from haven_vlm.yaml_edit import Value, expected, with_tag_settings
from haven_vlm_config import YAML_NAME, load_settings, outline_yaml, parse_yaml

NOW = datetime(2026, 3, 1, 14, 30)
CHANGES = {"Foul": {"threshold": Value("0.45", "was 0.5"), "max_gap": Value("10s")}}
MEANT = {"Foul": {"threshold": 0.45, "max_gap": "10s"}}

FILES = {
    "empty": "",
    "only a remark": "# my settings\n",
    "no end of line": "threshold: 0.4",
    "others": "# mine\nthreshold: 0.4 # low\n\ntag_list:\n  - Foul # the foul\n  - name: Dunk\n\n# the end\n",
    "windows": "threshold: 0.4\r\ntag_settings:\r\n  Dunk:\r\n    threshold: 0.2\r\n",
    "nothing in it": "tag_settings:\nthreshold: 0.4\n",
    "on one line": "tag_settings: {Dunk: {threshold: 0.2}, Foul: {threshold: 0.9}}\nthreshold: 0.4\n",
    "other tags": "tag_settings:\n  Dunk: # the best\n    threshold: 0.2 # sure?\n  # a remark\nthreshold: 0.4 # x\n",
    "same tag": "tag_settings:\n    foul:\n        threshold: 0.9\n        required_duration: 3s\n    Dunk:\n"
    "        threshold: 0.2  # keep\nthreshold: 0.4\n",
    "same tag on one line": "tag_settings:\n  Foul: {threshold: 0.9, required_duration: 3s}\n  # yes\n  Dunk: {}\n",
    "text over lines": "instructions: |\n  tag_settings:\n    Foul: no\n\nthreshold: 0.4\n",
    "a list last": "tag_list:\n- Foul\n- Dunk\n",
}


def changed(text: str, changes: dict[str, dict[str, Value]]) -> str:
    return with_tag_settings(text, outline_yaml(text), parse_yaml(text, "t").get("tag_settings"), changes)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_only_the_meant_values_change_and_every_other_line_stays(text: str) -> None:
    before: Any = parse_yaml(text, "t")
    after = changed(text, CHANGES)
    assert parse_yaml(after, "t") == {**before, "tag_settings": expected(before.get("tag_settings"), MEANT)}
    lost = set(text.splitlines()) - set(after.splitlines())
    assert all("tag_settings" in line or "oul" in line or "0.9" in line or "3s" in line for line in lost)
    assert ("\r\n" in text) == ("\r\n" in after) and after.count("\r") in (0, after.count("\n"))
    again = changed(after, CHANGES)
    assert again == after or "was 0.5" in again


names = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Co", "Cn")), min_size=1, max_size=12)


@given(
    tag=names,
    other=names,
    held=st.dictionaries(names, st.fixed_dictionaries({"threshold": st.floats(0, 1)}), max_size=3),
)
def test_whatever_the_tags_are_called(tag: str, other: str, held: dict[str, dict[str, float]]) -> None:
    content = {"threshold": 0.4, "tag_settings": held, "instructions": other}
    text = yaml.safe_dump(content, allow_unicode=True, default_flow_style=False, sort_keys=False)
    after = changed(text, {tag: {"threshold": Value("0.25")}})
    assert parse_yaml(after, "t") == {**content, "tag_settings": expected(held, {tag: {"threshold": 0.25}})}


def file_in(folder: Path) -> SettingsFile:
    return SettingsFile(folder / YAML_NAME, spare_dir=folder / "data", parse=parse_yaml, outline=outline_yaml)


def test_a_copy_of_what_it_was_is_kept_with_its_rights(tmp_path: Path) -> None:
    path = tmp_path / YAML_NAME
    path.write_text("threshold: 0.4 # low\n", encoding="utf-8")
    path.chmod(0o640)
    copy = file_in(tmp_path).apply(CHANGES, now=NOW)
    assert copy is not None and copy.read_text(encoding="utf-8") == "threshold: 0.4 # low\n"
    assert copy.name == "haven_vlm_config.yaml.20260301-143000.backup"
    assert path.read_text(encoding="utf-8").startswith("threshold: 0.4 # low\n")
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    loaded = load_settings(plugin_dir=tmp_path, config_dir=None, page={"tag_list": "Foul"}, arguments={}, environ={})
    (tag,) = loaded.settings.tuned_tags
    assert (tag.threshold, str(tag.max_gap)) == (0.45, "10s")


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert file_in(tmp_path).apply(CHANGES, now=NOW) is None
    assert (tmp_path / YAML_NAME).read_text(encoding="utf-8").startswith("tag_settings:\n  Foul:\n")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.yaml"
    real.write_text("threshold: 0.4\n", encoding="utf-8")
    link = tmp_path / YAML_NAME
    try:
        link.symlink_to(real)
    except OSError:
        pytest.skip("this account may make no links")
    file_in(tmp_path).apply(CHANGES, now=NOW)
    assert link.is_symlink() and "Foul" in real.read_text(encoding="utf-8")


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    (tmp_path / YAML_NAME).write_text("threshold: 0.4\n", encoding="utf-8-sig")
    file_in(tmp_path).apply(CHANGES, now=NOW)
    assert (tmp_path / YAML_NAME).read_bytes().startswith(b"\xef\xbb\xbfthreshold")


@pytest.mark.parametrize("text", ["{threshold: 0.4}\n", "threshold: 0.4\n...\n", "- a\n- b\n", "threshold: [\n"])
def test_what_cannot_be_changed_safely_is_left_alone_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / YAML_NAME
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        file_in(tmp_path).apply(CHANGES, now=NOW)
    assert str(path) in str(caught.value)
    assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == [YAML_NAME]


def test_a_file_that_cannot_be_read_or_written_is_said_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / YAML_NAME
    path.write_bytes(b"instructions: caf\xe9\n")  # from an editor that does not know UTF-8
    with pytest.raises(ConfigError, match="cannot be read"):
        file_in(tmp_path).apply(CHANGES, now=NOW)
    assert path.read_bytes() == b"instructions: caf\xe9\n"
    path.write_text("threshold: 0.4\n", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("haven_vlm.settings_file.write_atomically", full)
    with pytest.raises(ConfigError, match=r"cannot be written: .*No space left on device.*Nothing was changed"):
        file_in(tmp_path).apply(CHANGES, now=NOW)
    assert path.read_text(encoding="utf-8") == "threshold: 0.4\n"


def test_a_proposal_lies_beside_the_file_else_with_the_data(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    assert file.proposal() is None
    assert file.propose("a: 1\n") == tmp_path / PROPOSED
    assert file.proposal() == (tmp_path / PROPOSED, {"a": 1})
    file.withdraw()
    assert file.proposal() is None
    blocked = tmp_path / "file"
    blocked.write_text("no folder", encoding="utf-8")
    other = SettingsFile(blocked / YAML_NAME, spare_dir=tmp_path / "data", parse=parse_yaml, outline=outline_yaml)
    assert other.propose("b: 2\n") == tmp_path / "data" / PROPOSED
    assert other.proposal() == (tmp_path / "data" / PROPOSED, {"b": 2})
    nowhere = SettingsFile(blocked / YAML_NAME, spare_dir=blocked, parse=parse_yaml, outline=outline_yaml)
    with pytest.raises(ConfigError, match="cannot be written"):
        nowhere.propose("c: 3\n")


def test_settings_of_tags_win_over_the_list_and_wait_for_their_tag(tmp_path: Path) -> None:
    (tmp_path / YAML_NAME).write_text(
        "tag_list: [{name: Foul, threshold: 0.3, max_gap: 2}, Dunk]\n"
        "tag_settings: {foul: {threshold: 0.6}, Timeout: {threshold: 0.1}}\n",
        encoding="utf-8",
    )
    loaded = load_settings(plugin_dir=tmp_path, config_dir=None, page={}, arguments={}, environ={}).settings
    foul, dunk = loaded.tuned_tags
    assert (foul.threshold, str(foul.max_gap), dunk.threshold) == (0.6, "2s", None)


@pytest.mark.parametrize("wrong", ["{Foul: {threshold: 2}}", "{Foul: {speed: 1}}", "{Foul: 3}", "[Foul]"])
def test_mistakes_in_settings_of_tags_are_named(tmp_path: Path, wrong: str) -> None:
    (tmp_path / YAML_NAME).write_text(f"tag_settings: {wrong}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="tag_settings"):
        load_settings(plugin_dir=tmp_path, config_dir=None, page={}, arguments={}, environ={})
