"""Every command of the connector that a document or the help shows is run, as it stands there, and succeeds.

Only names are put in the place of others: the address of Stash, of model servers, folders and the file of the key.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from demo.court import seen_in
from demo.vision_server import VisionServer
from haven_vlm.command_line import parser
from tests.e2e.rig import ROOT, TAGS, Rig, rig

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
KEY = "the-key-of-this-test"


def shown() -> list[str]:
    """What stands behind `haven_vlm_connector.py`, wherever it does, up to a pipe or a file."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.name != "trouble.md"]
    texts.append(parser().format_help())
    commands: dict[str, str] = {}
    for text in texts:
        for found in re.findall(r"haven_vlm_connector\.py ((?:\\\n|[^\n`])*)", text):
            # Windows' scheduler takes the whole command in quotes
            line = found.replace("\\\n", " ").replace("\\", "/")
            line = line if line.count('"') % 2 == 0 else line.rpartition('"')[0]
            command = " ".join(re.split(r" 2>>| \||\. ", line)[0].split())
            if "--stash http" in command:
                # the same but for a name is the same command here
                commands.setdefault(re.sub(r"(--stash|--map|--api-key-\w+) \S+", r"\1", command), command)
    return sorted(commands.values())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("documented")
    with rig(folder, clips, api_key=KEY) as made, ExitStack() as servers:
        for _ in range(2):
            server = VisionServer(see=partial(seen_in, tags=TAGS))
            servers.enter_context(server.in_thread())
            made.servers.append(server)
        made.use(made.servers[0])
        made.stash.add_tag("Private")
        create = b'{"query": "mutation { studioCreate(input: {name: \\"Some Studio\\"}) { id } }"}'
        asked = urllib.request.Request(made.stash.graphql_url, create, {"Content-Type": "application/json"})
        assert b"errors" not in urllib.request.urlopen(asked, timeout=30).read()
        made.scene()
        made.stash.settings.configure_plugin("ahavenvlmconnector", made.settings)
        key = folder / "key"
        key.write_text(KEY, encoding="utf-8")
        key.chmod(0o600)
        yield made


def as_here(command: str, library: Rig) -> list[str]:
    """The command's words with addresses, folders and files of this machine."""
    words = shlex.split(command)
    media, servers = library.folder / "media", iter(library.servers)
    for at, word in enumerate(words[:-1]):
        if word == "--stash":
            words[at + 1] = library.stash.url
        elif word == "--endpoint":
            words[at + 1] = re.sub(r"http://\S+", next(servers).base_url, words[at + 1])
        elif word == "--map":
            words[at + 1] = f"{media}={media}"
        elif word == "--api-key-file":
            words[at + 1] = str(library.folder / "key")
    return words


@pytest.mark.parametrize("command", shown())
def test_it_runs(command: str, library: Rig) -> None:
    words = as_here(command, library)
    scene = 1
    if "untagged" in words:
        library.stash.untag_scene(scene, "VLM_Tagged")
    else:
        library.stash.tag_scene(scene, "VLM_TagMe")
    key = words[words.index("--api-key-env") + 1] if "--api-key-env" in words else "UNUSED"
    done = subprocess.run(
        [sys.executable, str(ROOT / "haven_vlm_connector.py"), *words, "--config-dir", str(library.folder / "mine")],
        env={**os.environ, key: KEY}, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) is ("--quiet" not in words)
    if "--json" in words:
        assert json.loads(done.stdout)["ok"] is True
    if words[0] == "tag_videos":
        assert "VLM_Tagged" in library.stash.scene_tags(scene)


def test_there_are_commands_for_cron_systemd_windows_and_batches() -> None:
    modes = {command.split()[0] for command in shown()}
    assert {"tag_videos", "tag_images", "preview", "check_endpoints"} <= modes
    assert any("--api-key-file" in command and "--quiet" in command for command in shown())
    assert any("--select untagged" in command for command in shown())


def test_the_json_of_the_page_holds_what_its_filter_takes(library: Rig) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert "jq '.report.media[].tags'" in page
    library.stash.tag_scene(1, "VLM_TagMe")
    done = subprocess.run(
        [sys.executable, str(ROOT / "haven_vlm_connector.py"), "preview", "--stash", library.stash.url, "--json",
         "--config-dir", str(library.folder / "mine")],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert [m["tags"] for m in json.loads(done.stdout)["report"]["media"]] == [["Basketball point", "Dunk", "Foul"]]
