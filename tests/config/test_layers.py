"""Where settings come from, which one wins, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml as yaml_module

import haven_vlm_config as config
from haven_vlm.errors import ConfigError
from haven_vlm.setting_layers import ARGUMENTS_LAYER, DEFAULTS_LAYER, PAGE_KEYS, PAGE_LAYER, LoadedSettings
from haven_vlm_config import check_arguments, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent


def load(
    tmp_path: Path,
    *,
    yaml: str | None = None,
    page: dict[str, object] | None = None,
    arguments: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
) -> LoadedSettings:
    if yaml is not None:
        (tmp_path / config.YAML_NAME).write_text(yaml, encoding="utf-8")
    return load_settings(
        plugin_dir=tmp_path, config_dir=None, page=page or {}, arguments=arguments or {}, environ=environ or {}
    )


def mistakes(tmp_path: Path, **layers: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **layers)
    return str(caught.value)


def test_the_defaults_are_local_only(tmp_path: Path) -> None:
    settings = load(tmp_path).settings
    (endpoint,) = settings.endpoints
    assert (endpoint.base_url, endpoint.weight, endpoint.is_fallback) == ("http://localhost:1234/v1", 5, False)
    assert not endpoint.allow_remote
    assert settings.video_frame_interval.seconds == 2.0
    assert settings.concurrent_task_limit == 8
    assert "Basketball point" in [t.name for t in settings.tag_list]


def test_the_shipped_examples_are_known_as_such_until_somebody_says_what_to_look_for(tmp_path: Path) -> None:
    assert load(tmp_path).looks_for_examples
    assert not load(tmp_path, yaml="tag_list: [Foul]").looks_for_examples
    assert not load(tmp_path, page={"tag_list": "Basketball point, Foul, Break-away, Turnover"}).looks_for_examples
    assert not load(tmp_path, page={"tag_parent": "Sports"}).looks_for_examples


@pytest.mark.parametrize(
    ("layers", "interval", "origin"),
    [
        ({}, 2.0, DEFAULTS_LAYER),
        ({"yaml": "video_frame_interval: 3"}, 3.0, "yaml"),
        ({"yaml": "video_frame_interval: 3", "page": {"video_frame_interval": "4"}}, 4.0, PAGE_LAYER),
        (
            {"page": {"video_frame_interval": "4"}, "arguments": {"video_frame_interval": "5s"}},
            5.0,
            ARGUMENTS_LAYER,
        ),
    ],
)
def test_the_last_layer_wins(tmp_path: Path, layers: dict[str, Any], interval: float, origin: str) -> None:
    loaded = load(tmp_path, **layers)
    assert loaded.settings.video_frame_interval.seconds == interval
    assert origin in loaded.origins["video_frame_interval"]


def test_what_the_page_leaves_empty_is_not_set(tmp_path: Path) -> None:
    page: dict[str, object] = {"video_frame_interval": "", "image_max_side": 0, "no_markers": False, "endpoints": ""}
    loaded = load(tmp_path, yaml="image_max_side: 512", page=page)
    assert loaded.settings.image_max_side == 512
    assert loaded.settings.create_markers


def test_the_switches_of_the_page(tmp_path: Path) -> None:
    settings = load(tmp_path, page={"no_markers": True, "local_only": True}).settings
    assert not settings.create_markers
    assert not settings.allow_remote_media


@pytest.mark.parametrize("stored", [True, 1, 1.0, "1", "true", "yes", "on", "TRUE"])
def test_a_switch_that_is_on_is_on_however_it_is_stored(tmp_path: Path, stored: object) -> None:
    settings = load(tmp_path, page={"local_only": stored, "no_markers": stored}).settings
    assert not settings.allow_remote_media
    assert not settings.create_markers


@pytest.mark.parametrize("stored", [False, 0, 0.0, "0", "false", "no", "off", "", None])
def test_a_switch_that_is_off_is_off_however_it_is_stored(tmp_path: Path, stored: object) -> None:
    settings = load(tmp_path, page={"local_only": stored, "no_markers": stored}).settings
    assert settings.allow_remote_media
    assert settings.create_markers


def test_a_switch_that_is_neither_is_refused(tmp_path: Path) -> None:
    assert "local_only (Stash's settings page): it must be on or off" in mistakes(tmp_path, page={"local_only": "si"})


def test_what_an_older_version_left_on_the_page_does_no_harm(tmp_path: Path) -> None:
    load(tmp_path, page={"binary_search": True})


def test_endpoints_tags_and_folders_as_one_line_each(tmp_path: Path) -> None:
    page: dict[str, object] = {
        "endpoints": "http://192.168.1.20:1234/v1 weight=5 max=4; http://gpu:8080/v1/ fallback key_env=GPU_KEY model=b "
        "only_for=images max_requests_per_day=500 price_in=0.4 max_cost=2",
        "model": "qwen3-vl",
        "tag_list": "Foul, Dunk",
        "path_mutation": "/data=/mnt/videos; D:\\films=/mnt/films",
    }
    settings = load(tmp_path, page=page).settings
    first, second = settings.endpoints
    assert (second.only_for, second.max_requests_per_day, second.price_in, second.max_cost) == ("images", 500, 0.4, 2.0)
    assert (first.name, first.weight, first.max_concurrent, first.model) == ("192.168.1.20:1234", 5, 4, "qwen3-vl")
    assert (second.base_url, second.is_fallback, second.api_key_env, second.model) == (
        "http://gpu:8080/v1",
        True,
        "GPU_KEY",
        "b",
    )
    assert [t.name for t in settings.tag_list] == ["Foul", "Dunk"]
    assert settings.path_mutation["D:\\films"] == "/mnt/films"


def test_five_mistakes_in_four_layers_are_one_message(tmp_path: Path) -> None:
    text = mistakes(
        tmp_path,
        yaml="video_frame_intervall: 3\nthreshold: 1.5\nendpoints:\n  - base_url: localhost\n    weight: 0\n",
        page={"image_max_side": 10},
        arguments={"sampling": "sometimes"},
    )
    assert text.startswith("6 settings are wrong")
    for part in (
        "video_frame_intervall", "did you mean video_frame_interval?",
        "threshold", "found 1.5", "less than or equal to 1",
        "endpoints[1].base_url", "http://localhost:1234/v1",
        "endpoints[1].weight", "greater than 0",
        "image_max_side (Stash's settings page)", "found 10",
        "sampling (arguments of the task)", "'fixed', 'refine' or 'adaptive'",
        str(tmp_path / config.YAML_NAME),
    ):  # fmt: skip
        assert part in text


def test_mistakes_across_keys_are_told_together_with_those_of_single_keys(tmp_path: Path) -> None:
    text = mistakes(
        tmp_path,
        yaml="threshold: high\ntag_list: [Foul, {name: Dunk, aliases: [foul]}]\ntrigger_tag: VLM_Tagged\n",
    )
    assert "threshold" in text
    assert "“foul” is used by both “Foul” and “Dunk”" in text
    assert "“VLM_Tagged” is used for two purposes" in text


def test_a_typing_mistake_in_the_capitals_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CREATE_MARKER", True, raising=False)
    assert "create_marker (haven_vlm_config.py)" in mistakes(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("- a\n- b", "expected keys with values"),
        ("a: [", "line 1"),
        ("threshold: 0.4\nthreshold: 0.6", "stands twice"),
        ("endpoints: []", "at least one is needed"),
        ("endpoints: [{base_url: 'http://a/v1', is_fallback: true}]", "must not be a fallback"),
        ("endpoints: [{base_url: 'http://a/v1', name: x}, {base_url: 'http://b/v1', name: X}]", "stands twice"),
        ("endpoints: [{base_url: 'http://a/v1', api_key: k, api_key_env: E}]", "not both"),
        ("endpoints: [{base_url: 'http://me:secret@a/v1'}]", "no user name"),
        ("endpoints: [{base_url: 'http://a/v1', max_concurrent: 0}]", "1 to 1024, or auto"),
        ("video_frame_interval: 0", "at least 0.1"),
        ("max_time_per_scene: 0", "at least 1 second"),
        ("max_time_per_scene: 0.5%", "at least 1 second, or 1%"),
        ("frames_per_question: true", "a number is needed"),
        ("boundary_tolerance: 5%", "seconds"),
        ("max_gap: soon", "12s, 1m30s or 5%"),
        ("implications: {Dunk: [Foul]}", "“Dunk” is not in tag_list"),
        ("tag_list: []", "at least one tag"),
        ("video_frame_interval: 0%", "at least 0.1 seconds"),
        ("outage_patience: 5%", "outage_patience"),
        ("tag_list: [VLM_TagMe]", "the connector's own tag"),
        ("tag_list: [{name: Foul, rename: vlm_tagged}]", "the connector's own tag"),
        ("threshold: true", "a number is needed"),
        ("concurrent_task_limit: true", "a number is needed"),
        ("data_dir: data", "a whole path"),
        ("min_coverage: 0", "greater than 0"),
        ("keep_answers: 0", "forever, or a number of days"),
        ("keep_answers: a year", "forever, or a number of days"),
        ("keep_answers: true", "forever, or a number of days"),
        ("local_only: true", "write allow_remote_media: false here"),
        ("instructions: 2001-02-30", "quotes"),
        ("endpoints: [{base_url: 'http://a/v1,http://b/v1'}]", "no comma"),
        ("endpoints: http://a/v1 http://b/v1", "semicolon"),
        ("endpoints: weight=5", "without an address"),
        ("tag_list: Foul: 3", "line 1"),
        ("tag_list: {a: 1}", "a list is needed"),
        ("tag_list: [[1]]", "a name, or a mapping"),
        ("vlm_engine: {options: {speed: {fast: 1}}}", "only model, process and categories"),
        ("path_mutation: /data", "write FOLDER-IN-STASH=FOLDER-HERE"),
        ("path_mutation: '/data='", "write FOLDER-IN-STASH=FOLDER-HERE"),
        ("endpoints: [{name: x}]", "haven_vlm_config.yaml): is missing"),
        ("? [threshold]\n: 0.4", "line 1"),
    ],
)
def test_bad_input_gets_a_clear_sentence(tmp_path: Path, yaml: str, said: str) -> None:
    assert said in mistakes(tmp_path, yaml=yaml)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ({"name": "Foul\n- Fake: x"}, r"there is a \n in it"),
        ("Foul\x1b[2J", r"there is a \x1b in it"),
        ({"name": "Foul", "rename": "Foul\u2028Fake"}, r"there is a \u2028 in it"),
        ({"name": "Foul", "aliases": ["Push", "Hold\x00"]}, r"there is a \x00 in it"),
        ({"name": "Foul", "definition": "Contact\x1b[2J"}, r"there is a \x1b in it"),
    ],
)
def test_a_tag_is_one_line_of_what_can_be_printed(tmp_path: Path, tag: object, said: str) -> None:
    """As its name stands in the question, it could else add entries to the list."""
    found = mistakes(tmp_path, yaml=json.dumps({"tag_list": [tag, "Dunk"]}))
    assert said in found and "tag_list" in found


def test_a_definition_may_be_written_over_several_lines(tmp_path: Path) -> None:
    made = load(tmp_path, yaml='tag_list: [Dunk, {name: Foul, definition: "Contact.\\nOr worse.\\tÖ👩‍🚀"}]\n')
    assert made.settings.tag_list[1].definition.startswith("Contact.\nOr")


@pytest.mark.parametrize("bare", ["localhost:1234", "192.168.1.20:1234/v1", "gpu.example weight=2", "nas:8080"])
def test_an_address_without_http_is_told_how_it_begins(tmp_path: Path, bare: str) -> None:
    assert "an address begins with http://" in mistakes(tmp_path, page={"endpoints": bare})
    assert "one word is not understood" in mistakes(tmp_path, page={"endpoints": "http://nas:1/v1 wieght=2"})


def test_no_secret_stands_in_a_message_or_a_repr(tmp_path: Path) -> None:
    text = mistakes(
        tmp_path, yaml="endpoints: [{base_url: 'http://a/v1', api_key: [hunter2], weight: -1, api_kee: hunter2}]"
    )
    assert "hunter2" not in text
    assert "hunter2" not in mistakes(tmp_path, page={"endpoints": "http://a/v1 hunter2"})
    for address in ("http://user:hunter2@a:1/v1", "http://a:1/v1?api_key=hunter2"):
        assert "hunter2" not in mistakes(tmp_path, yaml=f"endpoints: [{{base_url: '{address}'}}]")
    assert "hunter2" not in mistakes(tmp_path, yaml="endpoints: [{base_url: 'http://a/v1', api_key_env: sk-hunter2}]")
    loaded = load(tmp_path, yaml="endpoints: [{base_url: 'http://a/v1', api_key: hunter2}]")
    assert "hunter2" not in repr(loaded)


def test_the_named_file_wins_and_must_exist(tmp_path: Path) -> None:
    other = tmp_path / "mine.yaml"
    other.write_text("threshold: 0.9", encoding="utf-8")
    loaded = load(tmp_path, yaml="threshold: 0.1", environ={"HAVEN_VLM_CONFIG": str(other)})
    assert loaded.settings.threshold == 0.9
    assert "no such file" in mistakes(tmp_path, environ={"HAVEN_VLM_CONFIG": str(tmp_path / "gone.yaml")})


def test_the_file_in_stashs_folder_is_found(tmp_path: Path) -> None:
    theirs = tmp_path / "stash"
    theirs.mkdir()
    (theirs / config.YAML_NAME).write_text("\ufeffthreshold: 0.7", encoding="utf-8")
    loaded = load_settings(plugin_dir=tmp_path, config_dir=theirs, page={}, arguments={}, environ={})
    assert loaded.settings.threshold == 0.7


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / config.YAML_NAME
    file.write_bytes("instructions: Café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"haven_vlm_config\.yaml cannot be read"):
        load(tmp_path)


def test_empty_places_in_lines_of_settings_are_left_out(tmp_path: Path) -> None:
    page: dict[str, object] = {"path_mutation": ";/data=/mnt/a;;", "endpoints": "http://a/v1;; http://b/v1 ;"}
    settings = load(tmp_path, yaml="path_mutation: {}", page=page).settings
    assert dict(settings.path_mutation) == {"/data": "/mnt/a"}
    assert [e.base_url for e in settings.endpoints] == ["http://a/v1", "http://b/v1"]


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, yaml="# nothing yet\n").settings == load(tmp_path / "none").settings


def test_yaml_may_merge_mappings_and_a_tag_may_repeat_its_own_name(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        yaml="tag_list:\n  - &base {name: Foul, aliases: [foul], threshold: 0.7}\n"
        "  - {<<: *base, name: Dunk, aliases: []}\n",
    ).settings
    assert [t.threshold for t in settings.tag_list] == [0.7, 0.7]


def test_the_words_of_the_endpoint_line_are_those_the_manifest_and_the_docs_name(tmp_path: Path) -> None:
    manifest = yaml_module.safe_load((ROOT / "ahavenvlmconnector.yml").read_text(encoding="utf-8"))
    words = {"weight": 5, "max": 4, "model": "m", "key_env": "K", "name": "n", "timeout": 300, "only_for": "scenes"}
    line = " ".join([f"{word}={value}" for word, value in words.items()] + ["fallback policy=when_busy remote"])
    lines = f"http://127.0.0.1:2/v1; http://127.0.0.1:1/v1 {line}"
    _, endpoint = load(tmp_path, page={"endpoints": lines}).settings.endpoints
    assert (endpoint.weight, endpoint.max_concurrent, endpoint.api_key_env, endpoint.only_for) == (5, 4, "K", "scenes")
    assert (endpoint.is_fallback, endpoint.fallback_policy, endpoint.allow_remote) == (True, "when_busy", True)
    for text in (
        manifest["settings"]["endpoints"]["description"],
        (ROOT / "docs/settings.md").read_text(encoding="utf-8"),
    ):
        missing = [word for word in (*(f"{w}=" for w in words), "fallback", "policy=", "remote") if word not in text]
        assert not missing


def test_the_pages_keys_are_those_of_the_manifest() -> None:
    manifest = yaml_module.safe_load((ROOT / "ahavenvlmconnector.yml").read_text(encoding="utf-8"))
    assert set(manifest["settings"]) == set(PAGE_KEYS)


@pytest.mark.parametrize(
    ("given", "days"), [("365", 365), ("365d", 365), ("'1 day'", 1), ("forever", "forever"), ("''", "forever")]
)
def test_how_long_answers_are_kept(tmp_path: Path, given: str, days: object) -> None:
    assert load(tmp_path, yaml=f"keep_answers: {given}").settings.keep_answers == days


def test_arguments_are_checked_by_themselves_and_what_needs_the_other_layers_waits() -> None:
    check_arguments({"threshold": "0.7", "tag_parent": "Basketball", "implications": {"Slam": ["Dunk"]}})
    with pytest.raises(ConfigError) as told:
        check_arguments({"threshold": "9", "no_such_thing": "1", "tag_parent": "Basketball"})
    assert str(told.value).startswith("2 settings are wrong:")
    assert "threshold (arguments of the task)" in str(told.value) and "no_such_thing" in str(told.value)
