"""Configuration: plugin settings, the user interface's map, general."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stash.servers import Server

CONFIGURE = 'mutation($i: Map!) { configurePlugin(plugin_id: "court", input: $i) }'


def test_plugin_settings_are_absent_until_saved_and_replaced_as_a_whole(own_server: Server) -> None:
    assert own_server.data('{ configuration { plugins(include: ["court"]) } }') == {"configuration": {"plugins": {}}}
    assert own_server.data(CONFIGURE, i={"a": 1, "b": True}) == {"configurePlugin": {"a": 1, "b": True}}
    assert own_server.data(CONFIGURE, i={"b": False}) == {"configurePlugin": {"b": False}}
    own_server.data('mutation { configurePlugin(plugin_id: "other", input: {x: "y"}) }')
    included = own_server.data('{ configuration { plugins(include: ["court", "nothing"]) } }')
    assert included == {"configuration": {"plugins": {"court": {"b": False}}}}
    every = {"court": {"b": False}, "other": {"x": "y"}}
    assert own_server.data("{ configuration { plugins } }") == {"configuration": {"plugins": every}}
    assert own_server.data("{ configuration { plugins(include: []) } }") == {"configuration": {"plugins": every}}


@pytest.mark.parametrize(
    ("saved", "read"),
    [(1.5, 1.5), (2.0, 2), (12345678901, 12345678901), (1e-05, 0), ("x", "x"), (None, None), ([1.5, 2], [1.5, 2])],
)
def test_values_as_they_come_back(own_server: Server, saved: Any, read: Any) -> None:
    assert own_server.data(CONFIGURE, i={"v": saved}) == {"configurePlugin": {"v": read}}


def test_the_map_of_the_user_interface(own_server: Server) -> None:
    assert own_server.data("{ configuration { ui } }") == {"configuration": {"ui": {}}}
    own_server.data("mutation($p: Map) { configureUI(partial: $p) }", p={"vrTag": "VR", "a": {"b": 1}})
    own_server.data("mutation($p: Map) { configureUI(partial: $p) }", p={"a": {"c": 2}})
    own_server.data('mutation($v: Any) { configureUISetting(key: "a.d", value: $v) }', v="x")
    ui = own_server.data("{ configuration { ui } }")["configuration"]["ui"]
    assert ui == {"vrTag": "VR", "a": {"b": 1, "c": 2, "d": "x"}}
    assert own_server.data("mutation { configureUI(input: {only: 1}) }") == {"configureUI": {"only": 1}}


def test_general(own_server: Server) -> None:
    general = own_server.data(
        """{ configuration { general { apiKey username password maxSessionAge videoFileNamingAlgorithm pluginsPath
            stashes { excludeVideo } } } systemStatus { status } }"""
    )
    assert general["systemStatus"] == {"status": "OK"}
    shown = general["configuration"]["general"]
    assert (shown["apiKey"], shown["username"], shown["password"], shown["maxSessionAge"]) == ("", "", "", 3600)
    assert shown["pluginsPath"] == str(own_server.plugins)
    assert shown["stashes"] == [{"excludeVideo": False}]
