"""A real Stash (STASH_BIN) adds the source, installs, runs, updates; what is the user's survives."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from demo.footage import cached_clip, truth_of
from demo.vision_server import VisionServer
from release.package import PLUGIN, own_package, write_source
from tests.e2e.conftest import clips as clips
from tests.e2e.kills import SHORT
from tests.e2e.rig import TAGS
from tests.release.support import Repository, served
from tests.stash import servers
from tests.stash.servers import STASH_BIN, Server

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not STASH_BIN, reason="STASH_BIN names no Stash"),
    pytest.mark.skipif(shutil.which("git") is None, reason="packages are made from a commit, by git"),
]

CHANGE = "mutation($p:[PackageSpecInput!]!){%s(type:Plugin,packages:$p)}"
INSTALLED = "{installedPackages(type:Plugin){package_id version source_package{version date}}}"


def change(server: Server, what: str, url: str) -> None:
    """Install, update or uninstall the plugin, and wait for it."""
    job = server.data(CHANGE % what, p=[{"id": PLUGIN, "sourceURL": url}])[what]
    assert server.wait_for_job(job)["status"] == "FINISHED"


def installed(server: Server) -> Any:
    (found,) = server.data(INSTALLED)["installedPackages"]
    return found


def test_add_source_install_run_update(tmp_path: Path, clips: Path) -> None:
    media, source = tmp_path / "media", tmp_path / "source"
    media.mkdir()
    shutil.copyfile(cached_clip(clips, SHORT, size=(320, 180), fps=10, gop=20), media / "match.mp4")
    repository = Repository(tmp_path / "repository")
    write_source(source, [own_package(repository.folder)])
    with (
        served(source) as address,
        servers.real(tmp_path / "own", media) as server,
        VisionServer(see=partial(truth_of, tags=TAGS), slots=2).in_thread() as vision,
    ):
        url = f"{address}/index.yml"
        add = "mutation($i:ConfigGeneralInput!){configureGeneral(input:$i){pluginPackageSources{url}}}"
        server.data(add, i={"pluginPackageSources": [{"name": "Haven", "url": url, "local_path": "haven"}]})
        available = "query($s:String!){availablePackages(type:Plugin,source:$s){package_id name version metadata}}"
        (offered,) = server.data(available, s=url)["availablePackages"]
        assert offered["package_id"] == PLUGIN and offered["name"] == "A Haven VLM Connector"

        change(server, "installPackages", url)
        home = server.plugins / "haven" / PLUGIN
        assert (home / "manifest").is_file()
        plugins = server.data("{plugins{id version enabled tasks{name}}}")["plugins"]
        assert [(p["id"], p["enabled"]) for p in plugins] == [(PLUGIN, True)]

        server.scan(media)
        (scene,) = server.ids("scenes")
        server.set_tags(scene, server.tag("VLM_TagMe"))
        (home / "haven_vlm_config.yaml").write_text(
            f"endpoints: [{{name: here, base_url: '{vision.base_url}'}}]\ntag_list: [{', '.join(TAGS)}]\n"
            "sampling: fixed\nvideo_frame_interval: 1\n",
            encoding="utf-8",
        )
        run(server, "Tag Videos")
        assert {"Foul", "Dunk", "VLM_Tagged"} <= set(server.tags_of(scene))
        data = tmp_path / "own" / "haven_vlm"
        reports = {p.name for p in (data / "reports").iterdir()}
        assert (data / "ledger.sqlite").is_file() and {".json", ".csv"} <= {Path(name).suffix for name in reports}
        asked = len(vision.questions())
        for folder in (".python", "live"):
            (home / folder).mkdir(exist_ok=True)
            (home / folder / "mine").touch()

        first = installed(server)
        assert first["source_package"]["version"] == first["version"]
        repository.write("haven_vlm/new_part.py", "X = 1\n")
        repository.commit(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        write_source(source, [own_package(repository.folder)])
        later = time.time() + 5  # Stash asks again when the index is newer by the second
        os.utime(source / "index.yml", (later, later))
        offered = installed(server)
        assert offered["source_package"]["date"] and offered["source_package"]["version"] != first["version"]
        change(server, "updatePackages", url)
        assert installed(server)["version"] == offered["source_package"]["version"]
        assert (home / "haven_vlm" / "new_part.py").is_file()
        assert (home / ".python" / "mine").exists() and (home / "live" / "mine").exists()
        assert "Foul" in (home / "haven_vlm_config.yaml").read_text(encoding="utf-8")

        server.set_tags(scene, server.tag("Mine"), *ids(server, "VLM_TagMe", "Foul", "Dunk"))
        run(server, "Tag Videos")  # the same ledger: nothing is asked again
        assert len(vision.questions()) == asked
        assert {"Mine", "VLM_Tagged"} <= set(server.tags_of(scene))
        assert reports < {p.name for p in (data / "reports").iterdir()}

        change(server, "uninstallPackages", url)
        assert (home / "haven_vlm_config.yaml").is_file() and (data / "ledger.sqlite").is_file()
        assert not server.data("{plugins{id}}")["plugins"]


def run(server: Server, task: str) -> None:
    job = server.data("mutation($i:ID!,$n:String!){runPluginTask(plugin_id:$i,task_name:$n)}", i=PLUGIN, n=task)
    server.wait_for_job(job["runPluginTask"], 90)


def ids(server: Server, *names: str) -> list[str]:
    found = server.data("{findTags(filter:{per_page:-1}){tags{id name}}}")["findTags"]["tags"]
    return [t["id"] for name in names for t in found if t["name"] == name]
