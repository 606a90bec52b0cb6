"""A model, or a tag in Stash, that speaks HTML: page, report, log and Stash get it as text."""

from __future__ import annotations

import json

import pytest

from demo.footage import truth_of
from demo.vision.faults import Fault, FaultKind
from tests.e2e.rig import TAGS, MakeRig, Rig

EVIL = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"


def reports(one: Rig) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in (one.plugin_dir / "live" / "reports").glob("*.html")]


def assert_only_text(one: Rig, *, told: bool) -> None:
    """Nothing that the page reads, and no report, holds the markup as such; `told`: they hold it as text."""
    files = [file.read_text(encoding="utf-8") for file in (one.plugin_dir / "live").glob("*.json")]
    found = reports(one)
    assert files and found
    for text in (*files, *found):
        assert "<img src=x" not in text and "<script" not in text.lower()
    if told:
        assert any("&lt;img src=x onerror=alert(1)&gt;" in text for text in found)


@pytest.mark.parametrize("schema", ["enforced", "ignored"])
def test_a_model_that_names_markup_as_a_tag(make_rig: MakeRig, schema: str) -> None:
    """What is in no vocabulary is no tag, whatever the model says."""
    one = make_rig()
    server = one.vision(schema=schema)
    server._eyes._see = lambda jpeg: [*truth_of(jpeg, TAGS), EVIL, SCRIPT]
    one.use(server)
    scene = one.scene()
    result = one.run()
    assert not result.error
    one.assert_true(scene)
    assert EVIL not in one.stash.scene_tags(scene)
    assert_only_text(one, told=False)


def test_a_server_whose_errors_are_markup(make_rig: MakeRig) -> None:
    """The error reaches log, summary and page as one line of text, and no marker comes of it."""
    one = make_rig()
    message = f"{EVIL}\n{SCRIPT}\x1b[31m"
    one.use(
        one.vision(script=lambda occasion: Fault(FaultKind.SERVER, message=message) if occasion.number >= 6 else None)
    )
    scene = one.scene()
    result = one.run(args={"outage_patience": "1s"})
    assert one.spans(scene) == []
    told = [line.text for line in result.logs if "onerror" in line.text]
    assert told and not any("\x1b" in line or "\n" in line for line in told)
    assert_only_text(one, told=False)
    assert any("onerror" in json.dumps(one.page(op)) for op in ("status", "runs"))


def test_a_tag_of_stash_whose_name_is_markup(make_rig: MakeRig) -> None:
    """It is looked for, found, written and shown under its very name."""
    one = make_rig()
    server = one.vision()
    server._eyes._see = lambda jpeg: [EVIL if tag == "Dunk" else tag for tag in truth_of(jpeg, TAGS)]
    one.use(server)
    parent = one.stash.add_tag("Basketball")
    for name in ("Foul", EVIL):
        one.stash.add_tag(name, parents=[parent])
    one.settings |= {"tag_list": "", "tag_parent": "Basketball"}
    scene = one.scene()
    result = one.run()
    assert not result.error, result.error
    assert [m["primary_tag"] for m in one.stash.markers(scene) if m["primary_tag"] == EVIL] == [EVIL]
    assert EVIL in one.stash.scene_tags(scene)
    lanes = one.page("scene", id=str(scene))["lanes"]
    assert sorted((lane["tag"], len(lane["spans"])) for lane in lanes) == [(EVIL, 1), ("Foul", 1)]
    assert_only_text(one, told=True)
