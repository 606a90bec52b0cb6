"""The package source: the index as Stash reads it, the same bytes everywhere, updates that keep what is yours."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from release import package
from release.package import (
    PLUGIN,
    ROOT,
    PackageError,
    check_release,
    index_of,
    other_package,
    own_package,
    write_source,
)
from tests.release.support import Repository, install

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="packages are made from a commit, by git")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def manager(folder: Path) -> Path:
    """The folder of a plugin that others require."""
    home = folder / "PythonDepManager"
    home.mkdir()
    (home / "PythonDepManager.yml").write_text("name: PythonDepManager\nversion: 0.1\n", encoding="utf-8")
    (home / "deps.py").write_text("def ensure_import(*deps): ...\n", encoding="utf-8")
    return home


def test_the_index_says_what_stash_wants_to_know(repository: Repository, tmp_path: Path) -> None:
    made = own_package(repository.folder)
    write_source(tmp_path / "source", [made])
    (entry,) = yaml.safe_load((tmp_path / "source" / "index.yml").read_text(encoding="utf-8"))
    sha = repository.git("rev-parse", "HEAD").strip()
    assert entry["id"] == PLUGIN
    assert entry["name"] == "A Haven VLM Connector"
    assert entry["version"] == f"1.0.0-{sha[:7]}"
    assert entry["date"] == "2026-01-02 03:04:05"  # text, of exactly the form Stash parses
    assert "requires" not in entry
    assert entry["metadata"]["description"]
    data = (tmp_path / "source" / entry["path"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_same_commit_gives_the_same_bytes(repository: Repository) -> None:
    first = own_package(repository.folder)
    repository.write("README.md", "changed, but not committed")
    repository.write("haven_vlm_config.yaml", "threshold: 0.9")
    for file in repository.folder.glob("*.py"):
        file.touch()
    assert own_package(repository.folder) == first
    clone = repository.folder.parent / "clone"
    subprocess.run(["git", "clone", "-q", str(repository.folder), str(clone)], check=True, capture_output=True)
    assert own_package(clone) == first
    assert index_of([own_package(clone)]) == index_of([first])


def test_entries_are_sorted_plain_and_readable_for_everybody(repository: Repository) -> None:
    data = own_package(repository.folder).zip_bytes
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    assert [e.filename for e in entries] == sorted(e.filename for e in entries)
    assert {e.compress_type for e in entries} == {zipfile.ZIP_STORED}
    assert {e.external_attr >> 16 & 0o777 for e in entries} == {0o644}
    assert {e.date_time for e in entries} == {(2026, 1, 2, 3, 4, 4)}  # a zip counts in steps of two seconds
    assert not [e.filename for e in entries if e.filename.startswith("/") or ".." in e.filename or "\\" in e.filename]


def test_only_what_runs_is_in_the_zip(repository: Repository) -> None:
    for name in ("tests/test_x.py", "docs/generate.py", "haven_vlm_config.yaml", ".python/x/y.py", "build/z", "live/r"):
        repository.write(name, "x")
    repository.git("add", "-f", "haven_vlm_config.yaml", ".python", "build", "live")
    repository.commit("2026-01-02T03:04:06Z")
    packed = names(own_package(repository.folder).zip_bytes)
    allowed = (
        rf"{PLUGIN}\.yml|haven_\w+\.py|haven_vlm/.+|page/.+|docs/[\w-]+\.md|docs/pictures/\w+\.png"
        r"|(README|CHANGELOG)\.md|LICENSE|requirements\.txt"
    )
    assert [n for n in packed if not re.fullmatch(allowed, n)] == []
    assert {f"{PLUGIN}.yml", "haven_vlm_connector.py", "haven_vlm/__init__.py", "LICENSE"} <= set(packed)
    assert len([n for n in packed if n.endswith(".yml")]) == 1


def test_every_link_and_picture_of_the_documents_leads_to_a_file_in_the_zip(repository: Repository) -> None:
    """The README of an installed plugin once showed no picture, and none of its links led anywhere."""
    with zipfile.ZipFile(io.BytesIO(own_package(repository.folder).zip_bytes)) as archive:
        packed = set(archive.namelist())
        pages = {n: archive.read(n).decode() for n in packed if n.endswith(".md")}
        texts = {n: archive.read(n).decode() for n in packed if n.endswith((".py", ".js"))}
    links = [
        (page, posixpath.normpath(posixpath.join(posixpath.dirname(page), target)))
        for page, text in pages.items()
        for target in re.findall(r"\]\(([^)#\s]+)", text)
        if "://" not in target
    ]
    assert len(links) > 40 and any(target.endswith(".png") for _, target in links)
    assert [(page, target) for page, target in links if target not in packed] == []
    named = [(name, page) for name, text in texts.items() for page in re.findall(r"docs/[\w-]+\.md", text)]
    assert ("haven_vlm_connector.py", "docs/platforms.md") in named
    assert [(name, page) for name, page in named if page not in packed] == []


def test_the_documents_tell_the_address_that_a_release_publishes_to() -> None:
    """It was called “the address of index.yml on this project's pages”, and nowhere stood what that is."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yaml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["deploy"]["environment"]["url"] == "${{ steps.pages.outputs.page_url }}index.yml"
    for page in ("README.md", "docs/platforms.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "https://github.com/OWNER/REPOSITORY" in text and "https://OWNER.github.io/REPOSITORY/index.yml" in text


def test_the_documents_keep_the_package_small(repository: Repository) -> None:
    assert len(own_package(repository.folder).zip_bytes) < 3_000_000


def test_everything_the_manifest_names_is_in_the_zip(repository: Repository) -> None:
    packed = own_package(repository.folder)
    with zipfile.ZipFile(io.BytesIO(packed.zip_bytes)) as archive:
        manifest = yaml.safe_load(archive.read(f"{PLUGIN}.yml"))
    ui = manifest.get("ui", {})
    named = [part.removeprefix("{pluginDir}/") for part in manifest["exec"][1:]]
    named += [n for n in [*ui.get("javascript", []), *ui.get("css", [])] if "://" not in n]
    missing = [n for n in named if n not in names(packed.zip_bytes)]
    assert missing == []


def test_a_requirement_is_named_when_the_index_has_it(repository: Repository, tmp_path: Path) -> None:
    other = other_package(manager(tmp_path))
    own = own_package(repository.folder, available=["PythonDepManager"])
    index = yaml.safe_load(index_of([own, other]))
    assert index[0]["requires"] == ["PythonDepManager"]
    assert index[1]["id"] == "PythonDepManager"
    assert index[1]["version"].startswith("0.1-")
    assert names(other.zip_bytes) == ["PythonDepManager.yml", "deps.py"]
    datetime.datetime.strptime(index[1]["date"], "%Y-%m-%d %H:%M:%S")


def test_a_folder_without_one_manifest_is_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="exactly one manifest"):
        other_package(tmp_path)


def test_a_file_called_like_stashs_own_is_refused(tmp_path: Path) -> None:
    home = manager(tmp_path)
    (home / "manifest").touch()
    with pytest.raises(PackageError, match="manifest"):
        other_package(home)


def test_a_newer_commit_has_a_newer_date_and_another_zip(repository: Repository) -> None:
    first = own_package(repository.folder)
    repository.write("haven_vlm/new_part.py", "X = 1\n")
    repository.commit("2026-01-02T03:04:06Z")
    second = own_package(repository.folder)
    assert second.entry["date"] > first.entry["date"]
    assert second.zip_name != first.zip_name
    assert own_package(repository.folder, "HEAD~1") == first


def test_an_update_keeps_everything_that_is_the_users(repository: Repository, tmp_path: Path) -> None:
    source, plugins, config = tmp_path / "source", tmp_path / "config" / "plugins" / "haven", tmp_path / "config"
    repository.write("haven_vlm/old_part.py", "X = 1\n")
    repository.commit("2026-01-02T03:04:06Z")
    write_source(source, [own_package(repository.folder)])
    home = install(source, plugins)
    theirs = [
        home / "haven_vlm_config.yaml",
        home / ".python" / "cpython-312-x" / "installed.json",
        home / "live" / "status.json",
        config / "haven_vlm" / "ledger.sqlite",
        config / "haven_vlm" / "reports" / "1.json",
    ]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine", encoding="utf-8")
    (repository.folder / "haven_vlm" / "old_part.py").unlink()
    repository.write("haven_vlm/new_part.py", "X = 2\n")
    repository.commit("2026-01-02T03:04:10Z")
    write_source(source, [own_package(repository.folder)])
    assert install(source, plugins) == home
    assert [f.read_text(encoding="utf-8") for f in theirs] == ["mine"] * len(theirs)
    assert (home / "haven_vlm" / "new_part.py").exists()
    assert not (home / "haven_vlm" / "old_part.py").exists()


def test_what_was_installed_runs(repository: Repository, tmp_path: Path) -> None:
    write_source(tmp_path / "source", [own_package(repository.folder)])
    home = install(tmp_path / "source", tmp_path / "plugins")
    connection = {"Scheme": "http", "Host": "127.0.0.1", "Port": 9, "Dir": str(tmp_path), "PluginDir": str(home)}
    call = {"server_connection": connection, "args": {"mode": "check_endpoints"}}
    done = subprocess.run(
        [sys.executable, str(home / "haven_vlm_connector.py")],
        input=json.dumps(call).encode(), capture_output=True, timeout=60, cwd=tmp_path, check=False,
    )  # fmt: skip
    reply = json.loads(done.stdout)
    assert "127.0.0.1:9" in reply["error"]  # it came as far as asking Stash
    assert b"No module named" not in done.stderr


def test_the_source_does_not_go_into_the_repository(repository: Repository) -> None:
    with pytest.raises(PackageError, match="inside the repository"):
        write_source(package.ROOT / "build" / "source", [own_package(repository.folder)])
    assert not (package.ROOT / "build" / "source").exists()


def test_a_release_needs_one_version_everywhere(repository: Repository) -> None:
    repository.write("CHANGELOG.md", "# Changelog\n\n## 1.0.0 – unreleased\n")
    repository.commit("2026-01-02T03:04:06Z")
    with pytest.raises(PackageError, match=r"CHANGELOG\.md does not"):
        check_release(repository.folder, "HEAD", "v1.0.0")
    repository.write("CHANGELOG.md", "# Changelog\n\n## 1.0.0 – 2026-01-02\n")
    repository.commit("2026-01-02T03:04:07Z")
    check_release(repository.folder, "HEAD", "v1.0.0")
    with pytest.raises(PackageError, match=r"ahavenvlmconnector\.yml, pyproject\.toml, CHANGELOG\.md do not"):
        check_release(repository.folder, "HEAD", "v1.0.1")


def test_an_unknown_commit_is_said_to_be_one(repository: Repository) -> None:
    with pytest.raises(PackageError, match="git rev-parse"):
        own_package(repository.folder, "no-such-commit")


def test_the_command_builds_and_says_what(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(package, "ROOT", repository.folder)
    home = manager(tmp_path)
    assert package.main([str(tmp_path / "source"), "--also", str(home)]) == 0
    assert len(list((tmp_path / "source").glob("*.zip"))) == 2
    assert "index.yml" in capsys.readouterr().out
    assert package.main([str(tmp_path / "source"), "--tag", "v0.0.1"]) == 1
    assert "Not built: the tag v0.0.1" in capsys.readouterr().err


def test_the_workflow_builds_with_options_that_exist() -> None:
    text = (package.ROOT / ".github" / "workflows" / "publish.yaml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["build"]["steps"]
    (line,) = [step["run"] for step in steps if "release.package" in step.get("run", "")]
    words = shlex.split(line)[3:]
    options = package.parser().parse_args(words)
    assert options.tag == "$GITHUB_REF_NAME" and str(options.folder) == "$RUNNER_TEMP/source"
