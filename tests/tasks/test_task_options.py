"""What a task's arguments say beside the settings."""

from __future__ import annotations

from typing import Any

import pytest

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Kind
from haven_vlm.task_options import Options


def test_options_are_taken_out_and_the_rest_are_settings() -> None:
    options, rest = Options.take(
        {"mode": "undo", "ids": "3, 1,3", "kind": "Galleries", "limit": "5", "run": 7, "everything": "yes", "x": 1}
    )
    assert (options.ids, options.kind, options.limit, options.run) == (("3", "1"), Kind.GALLERY, 5, 7)
    assert (options.everything, options.apply, rest) == (True, False, {"x": 1})
    assert Options.take({"ids": [4, "5"]})[0].ids == ("4", "5")
    assert Options.take({"ids": 6, "limit": "", "run": None, "apply": False})[0] == Options(ids=("6",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ids": ""}, "ids: numbers are needed"),
        ({"ids": []}, "ids: numbers are needed"),
        ({"ids": "1,x"}, "ids: numbers are needed"),
        ({"ids": "٣"}, "ids: numbers are needed"),
        ({"kind": "scene"}, "kind: it says what ids are"),
        ({"ids": "1", "kind": "film"}, "kind: one of scene, image, gallery is needed"),
        ({"limit": 0}, "limit: a whole number of at least 1"),
        ({"run": "2.5"}, "run: a whole number of at least 1"),
        ({"everything": "perhaps"}, "everything: true or false is needed"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Options.take(arguments)


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Options.take({"limit": -1, "run": "x", "apply": "maybe"})
    assert [name in str(caught.value) for name in ("limit:", "run:", "apply:")] == [True] * 3
