"""Plugins through the server: what they are given, what becomes of what they say, the queue, hooks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.stash import probe
from tests.stash.servers import Server

RUN = """mutation($t: String, $m: Map, $a: [PluginArgInput!], $d: String, $p: ID!) {
    runPluginTask(plugin_id: $p, task_name: $t, args_map: $m, args: $a, description: $d) }"""
OPERATE = 'mutation($m: Map) { runPluginOperation(plugin_id: "probe", args: $m) }'
JOB = "query($i: ID!) { findJob(input: {id: $i}) { status progress error } }"


@pytest.fixture
def plugin(own_server: Server) -> Server:
    probe.install(own_server.plugins)
    own_server.data("mutation { reloadPlugins }")
    return own_server


def run(server: Server, args: dict[str, Any] | None = None, *, task: str | None = "Echo", plugin: str = "probe") -> Any:
    """Run a task to its end; returns the job."""
    job_id = server.data(RUN, p=plugin, t=task, m=args)["runPluginTask"]
    return server.wait_for_job(job_id)


def operate(server: Server, **args: Any) -> Any:
    return server.data(OPERATE, m=args)["runPluginOperation"]


def notes(server: Server, name: str) -> list[Any]:
    path = server.plugins / "probe" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_notes(server: Server, name: str, timeout: float = 10.0) -> list[Any]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := notes(server, name):
            return found
        time.sleep(0.01)
    raise TimeoutError(name)


def echo_with(server: Server, task: str | None, **given: Any) -> Any:
    """`args` and `argv` of a task's process, which writes them into a file because a job keeps no output."""
    script = server.plugins / "probe" / "probe.py"
    code = script.read_text(encoding="utf-8").replace("    print(json.dumps(", "    note('echo', (", 1)
    script.write_text(code, encoding="utf-8")
    job_id = server.data(RUN, p="probe", t=task, **given)["runPluginTask"]
    assert server.wait_for_job(job_id)["status"] == "FINISHED"
    return notes(server, "echo")[-1]["output"]


def test_what_a_task_is_given(plugin: Server) -> None:
    seen = echo_with(plugin, "Echo", m={"n": 7, "list": [1, 2.5, {"a": None}], "text": "ä<b>&", "big": 12345678901234})
    folder = str(plugin.plugins / "probe")
    defaults = {"mode": "x", "flag": "true", "f": "1.50", "nothing": "", "day": "2024-01-02"}
    args = {"n": 7, "list": [1, 2.5, {"a": None}], "text": "ä<b>&", "big": 12345678901234}
    assert seen["given"]["args"] == defaults | args
    assert seen["argv"] == [folder, "--extra"]
    assert seen["last"] == "}"
    assert seen["env"]["PYTHONPATH"].split(":")[-1] == str(plugin.plugins)
    assert seen["cwd"] != folder
    connection = seen["given"]["server_connection"]
    assert set(connection) == {"Scheme", "Host", "Port", "SessionCookie", "Dir", "PluginDir"}
    assert (connection["Scheme"], connection["Port"]) == ("http", int(plugin.url.rpartition(":")[2]))
    assert (connection["Dir"], connection["PluginDir"]) == (str(plugin.plugins.parent), folder)
    cookie = connection["SessionCookie"]
    assert cookie.pop("Value")
    assert cookie == {
        "Name": "session", "Quoted": False, "Path": "", "Domain": "", "Expires": "0001-01-01T00:00:00Z",
        "RawExpires": "", "MaxAge": 0, "Secure": False, "HttpOnly": False, "SameSite": 0, "Partitioned": False,
        "Raw": "", "Unparsed": None,
    }  # fmt: skip


def test_without_a_task_name_there_are_no_defaults(plugin: Server) -> None:
    seen = echo_with(plugin, None, m={"q": 1})
    assert seen["given"]["args"] == {"q": 1}
    assert seen["argv"] == [str(plugin.plugins / "probe")]


def test_the_old_list_of_arguments(plugin: Server) -> None:
    listed = [
        {"key": "i", "value": {"i": 3}},
        {"key": "l", "value": {"a": [{"str": "x"}, {"b": True}]}},
        {"key": "o", "value": {"o": [{"key": "k", "value": {"f": 1.5}}]}},
        {"key": "none"},
    ]
    seen = echo_with(plugin, None, a=listed)
    assert seen["given"]["args"] == {"i": 3, "l": ["x", True], "o": {"k": 1.5}, "none": None}


def test_a_cookie_that_opens_the_door(plugin: Server) -> None:
    plugin.data('mutation { configureGeneral(input: {username: "user", password: "secret"}) { username } }')
    form = {"username": "user", "password": "secret"}
    entered = plugin.http.post(f"{plugin.url}/login", data=form, allow_redirects=False, timeout=30)
    plugin.headers |= {"Cookie": entered.headers["Set-Cookie"].partition(";")[0]}
    value = operate(plugin)["given"]["server_connection"]["SessionCookie"]["Value"]
    assert plugin.gql("{ version { hash } }", headers={"Cookie": f"session={value}"}).status == 200


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('{"output": 5}', 5),
        (' {"output": [1, "a", true, 1.5]} \n', [1, "a", True, 1.5]),
        ('{"OUTPUT": {"a": 1}, "unknown": 2}', {"a": 1}),
        ('{"output": null}', None),
        ("null", None),
        ("", ""),
        ("said\n", "said\n"),
        ('{"output": 1}{"output": 2}', '{"output": 1}{"output": 2}'),
        ("[1]", "[1]"),
        ('{"output": NaN}', '{"output": NaN}'),
    ],
)
def test_output_of_an_operation(plugin: Server, text: str, output: Any) -> None:
    assert operate(plugin, do="print", text=text) == output


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('{"error": "bad"}', 0, "bad"),
        ('{"output": 1, "error": "bad"}', 0, "bad"),
        ('{"output": 1}', 3, "exit status 3"),
        ("junk", 2, "exit status 2"),
        ('{"error": "bad"}', 2, "bad"),
        ('{"error": 5}', 0, ""),
    ],
)
def test_error_of_an_operation(plugin: Server, text: str, code: int, message: str) -> None:
    assert plugin.refusal(OPERATE, m={"do": "print", "text": text, "code": code}) == message


def test_a_task_is_FINISHED_whatever_the_plugin_says(plugin: Server) -> None:
    for text, code in (('{"error": "bad"}', 0), ("junk", 3), ("{}", 0)):
        job = run(plugin, {"do": "print", "text": text, "code": code})
        assert (job["status"], job["error"]) == ("FINISHED", None)


def test_a_task_that_cannot_start_is_FAILED(plugin: Server) -> None:
    assert run(plugin, plugin="none", task="x")["error"] == "Error creating plugin task: no plugin with ID none"
    missing = run(plugin, task="None such")
    assert (missing["status"], missing["description"]) == ("FAILED", "Running plugin task: None such")
    plugin.data("mutation { setPluginsEnabled(enabledMap: {probe: false}) }")
    assert run(plugin)["error"] == "Error creating plugin task: plugin probe is disabled"
    assert plugin.refusal(OPERATE, m={}) == "plugin probe is disabled"


def test_a_description_labels_the_job(plugin: Server) -> None:
    job_id = plugin.data(RUN, p="probe", t="Echo", d="my label")["runPluginTask"]
    assert plugin.wait_for_job(job_id)["description"] == "Running plugin task: my label"


def test_progress(plugin: Server) -> None:
    assert run(plugin)["progress"] == 0
    assert run(plugin, {"do": "progress", "values": [0.25, 0.5]})["progress"] == 0.5
    assert run(plugin, {"do": "progress", "values": [3]})["progress"] == 1


@pytest.mark.parametrize(("size", "outcome"), [(65536, "ok"), (65537, "broken")])
def test_a_line_over_64_KiB_closes_the_pipe(plugin: Server, size: int, outcome: str) -> None:
    """`size` counts the whole line with its prefix and its newline."""
    run(plugin, {"do": "big", "size": size})
    assert notes(plugin, "big") == [outcome]


def test_one_job_at_a_time_and_stop_is_a_kill(plugin: Server) -> None:
    first = plugin.data(RUN, p="probe", t="Other", m={"do": "sleep", "seconds": 30})["runPluginTask"]
    [pid] = wait_for_notes(plugin, "started")
    second = plugin.data(RUN, p="probe", t="Other", m={"do": "print", "text": "{}"})["runPluginTask"]
    queue = plugin.data("{ jobQueue { id status } }")["jobQueue"]
    assert queue == [{"id": first, "status": "RUNNING"}, {"id": second, "status": "READY"}]
    assert plugin.data("mutation($i: ID!) { stopJob(job_id: $i) }", i=first) == {"stopJob": True}
    assert plugin.wait_for_job(first)["status"] == "CANCELLED"
    assert plugin.wait_for_job(second)["status"] == "FINISHED"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
    assert notes(plugin, "slept") == []
    assert plugin.data("{ jobQueue { id } }") == {"jobQueue": None}


def test_a_waiting_job_can_be_taken_out(plugin: Server) -> None:
    first = plugin.data(RUN, p="probe", t="Other", m={"do": "sleep", "seconds": 30})["runPluginTask"]
    wait_for_notes(plugin, "started")
    second = plugin.data(RUN, p="probe", t="Other")["runPluginTask"]
    plugin.data("mutation($i: ID!) { stopJob(job_id: $i) }", i=second)
    assert plugin.wait_for_job(second)["status"] == "CANCELLED"
    plugin.data("mutation { stopAllJobs }")
    assert plugin.wait_for_job(first)["status"] == "CANCELLED"


def test_ten_ended_jobs_are_remembered(plugin: Server) -> None:
    jobs = [plugin.data(RUN, p="none", t="x")["runPluginTask"] for _ in range(12)]
    plugin.wait_for_job(jobs[-1])
    kept = [plugin.data(JOB, i=job)["findJob"] is not None for job in jobs]
    assert kept == [False] * 2 + [True] * 10
    assert plugin.data("mutation { stopJob(job_id: 999) }") == {"stopJob": True}


def test_hooks_run_before_the_reply_one_process_per_object(plugin: Server, media: Path) -> None:
    plugin.scan(media)
    one, two = plugin.ids("scenes")[:2]
    court = plugin.tag("Court")
    bulk = "mutation($i: BulkSceneUpdateInput!) { bulkSceneUpdate(input: $i) { id } }"
    plugin.data(bulk, i={"ids": [one, two], "tag_ids": {"ids": [court], "mode": "ADD"}, "title": None})
    first, second = notes(plugin, "hooks")
    given = {"ids": [one, two], "tag_ids": {"ids": [court], "mode": "ADD"}}
    assert (first["id"], second["id"]) == (int(one), int(two))
    assert (first["type"], first["input"]) == ("Scene.Update.Post", given)
    assert set(first["inputFields"]) == {"ids", "tag_ids", "title"}
    (plugin.plugins / "probe" / "hooks").unlink()
    plugin.marker(one, 1.5, court)
    plugin.data("mutation($i: ID!) { sceneUpdate(input: {id: $i, rating100: 5}) { id } }", i=one)
    marker, update = notes(plugin, "hooks")
    assert marker["input"] == {"title": "", "seconds": 1.5, "scene_id": one, "primary_tag_id": court}
    assert "inputFields" not in marker
    assert {key: value for key, value in update["input"].items() if value is not None} == {"id": one, "rating100": 5}
    assert "tag_ids" in update["input"]


def test_a_refused_mutation_fires_no_hook(plugin: Server) -> None:
    plugin.refusal('mutation { sceneUpdate(input: {id: 999999, title: "x"}) { id } }')
    assert notes(plugin, "hooks") == []


def test_a_plugin_as_listed(plugin: Server) -> None:
    listed = plugin.data(
        """{ plugins { id name description version url enabled requires tasks { name description }
            hooks { name hooks } settings { name display_name description type } } }"""
    )["plugins"]
    triggers = ["Scene.Update.Post", "SceneMarker.Create.Post", "Tag.Destroy.Post", "No.Such.Trigger"]
    assert listed == [
        {
            "id": "probe", "name": "Probe", "description": "does as told", "version": "1.10", "url": None,
            "enabled": True, "requires": None,
            "tasks": [{"name": "Echo", "description": "says what it was given"}, {"name": "Other", "description": ""}],
            "hooks": [{"name": "Note", "hooks": triggers}],
            "settings": [
                {"name": "alpha", "display_name": "", "description": "", "type": "STRING"},
                {"name": "zeta", "display_name": "Zeta", "description": "", "type": "NUMBER"},
            ],
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    "manifest",
    [
        "name: x\nunknown: 1\n",
        "name: x\nname: y\n",
        "tasks: [{name: a, defaultArgs: {a: {b: 1}}}]\n",
        "tasks: [{name: a, defaultArgs: [b]}]\n",
        "tasks: [{name: a, triggeredBy: [b]}]\n",
        "hooks: [{name: a, when: b}]\n",
        "settings: {a: {default: 1}}\n",
        "settings: {a: {type: INT}}\n",
        "interface: grpc\n",
        "exec: python x.py\n",
        "ui: {csp: {img-src: [a]}}\n",
        "ui: {javascript: a.js}\n",
        "- a\n",
        "just text\n",
        "name: a: b\n",
        "",
    ],
)
def test_manifests_that_are_refused(own_server: Server, manifest: str) -> None:
    for name, text in (("broken", manifest), ("sound", "name: Sound\n")):
        folder = own_server.plugins / name
        folder.mkdir()
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    own_server.data("mutation { reloadPlugins }")
    assert own_server.data("{ plugins { id } }") == {"plugins": [{"id": "sound"}]}


def test_every_yml_at_any_depth_is_tried_and_ids_differ_by_more_than_case(own_server: Server) -> None:
    for path in ("a/first.yml", "b/deep/er/second.yml", "c/FIRST.yml", "d/not.yaml"):
        file = own_server.plugins / path
        file.parent.mkdir(parents=True)
        file.write_text("name: n\n", encoding="utf-8")
    own_server.data("mutation { reloadPlugins }")
    assert [plugin["id"] for plugin in own_server.data("{ plugins { id } }")["plugins"]] == ["first", "second"]
