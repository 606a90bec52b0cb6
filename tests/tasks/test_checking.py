"""The check names what is wrong and what is there; it never raises and never writes."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from haven_vlm.checking import check_everything, with_servers_found
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.endpoint_check import as_table
from haven_vlm.errors import StashUnavailable
from haven_vlm.facts import Kind, MediaFile, Medium, TagRef
from haven_vlm.journal import Journal
from haven_vlm.server_survey import Found
from haven_vlm.settings import EndpointSettings, Settings

SETTINGS = Settings.model_validate(
    {"endpoints": [{"name": "Desktop", "base_url": "http://127.0.0.1:9/v1"}], "tag_list": ["Foul"]}
)
OTHER = Found("http://127.0.0.1:8080/v1", "llama.cpp", ("tiny",))


class Library:
    """As much of Stash as a check reads."""

    def __init__(self, path: str, *, down: bool = False) -> None:
        self._path, self._down = path, down

    async def find_tags(self, names: list[str]) -> dict[str, TagRef]:
        if self._down:
            raise StashUnavailable("nobody answers")
        return {"VLM_TagMe": TagRef("7", "VLM_TagMe")}

    async def find_ids(self, wanted: object) -> list[str]:
        return ["1"]

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        return ["1"]

    async def medium(self, kind: Kind, medium_id: str) -> Medium:
        return Medium(kind, medium_id, "Game", (MediaFile(self._path, 1),), frozenset())


async def found() -> tuple[Found, ...]:
    return (OTHER,)


async def check(library: Library, tmp_path: Path, *, dead: bool = False, login_ages: bool = False) -> str:
    async with Journal(tmp_path / "ledger.sqlite") as journal, HttpEndpoint(SETTINGS.endpoints[0]) as endpoint:
        return as_table(
            await check_everything(
                settings=SETTINGS,
                endpoints=[endpoint] if dead else [],
                gateway=library,  # type: ignore[arg-type]
                stash_version="v0.30.1",
                journal=journal,
                data_dir=tmp_path,
                login_ages=login_ages,
                find_servers=found,
            )
        )


def flat(table: str) -> str:
    return " ".join(table.split())


async def test_everything_that_is_wrong_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.touch()
    table = flat(await check(Library(str(film)), tmp_path, dead=True))
    assert "Desktop (http://127.0.0.1:9/v1) ✗ reachable nobody answers at 127.0.0.1:9" in table
    assert "→ Start the model server, and check its port." in table
    assert "On this machine llama.cpp answers at http://127.0.0.1:8080/v1; to use it, add that to endpoints." in table
    assert "✓ login Stash v0.30.1 answers ✓ to do 1 scene tagged “VLM_TagMe” ✓ long runs" in table
    assert f"✓ file {film} can be read here" in table
    assert "aiohttp" in table and "It holds 0 answers" in table and "are free in" in table


async def test_a_stash_that_is_gone_is_one_finding(tmp_path: Path) -> None:
    assert "Stash ✗ login nobody answers" in flat(await check(Library("", down=True), tmp_path))


async def test_a_file_that_is_not_here_is_told_with_the_setting(tmp_path: Path) -> None:
    assert "• file /data/film.mp4 is not on this machine" in flat(await check(Library("/data/film.mp4"), tmp_path))


async def test_a_login_that_ages_is_told_with_its_fix(tmp_path: Path) -> None:
    table = flat(await check(Library("/data/film.mp4"), tmp_path, login_ages=True))
    assert "→ Generate an API key in Stash" in table


@pytest.mark.parametrize("wanted", [True, False])
async def test_servers_nobody_named_are_used_only_when_the_settings_say_so(wanted: bool) -> None:
    settings = await with_servers_found(SETTINGS.model_copy(update={"discover_endpoints": wanted}), found)
    assert [e.base_url for e in settings.endpoints[1:]] == ([OTHER.base_url] if wanted else [])
    assert all(e.is_fallback and not e.allow_remote for e in settings.endpoints[1:])


async def test_an_endpoint_already_named_is_not_found_again() -> None:
    named = SETTINGS.model_copy(
        update={
            "endpoints": (EndpointSettings(name="Mine", base_url="http://localhost:8080/v1"),),
            "discover_endpoints": True,
        }
    )
    assert len((await with_servers_found(named, found)).endpoints) == 1


async def test_a_disk_that_is_nearly_full_is_a_problem_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("haven_vlm.checking.shutil.disk_usage", lambda _: usage._replace(free=50 * 1024 * 1024))
    table = flat(await check(Library("/data/film.mp4"), tmp_path))
    assert f"✗ free Only 0.0 GB are free in {tmp_path} → Make room there, or point data_dir to another disk." in table


async def test_a_library_without_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: object) -> None:
        return None

    library = Library("")
    monkeypatch.setattr(library, "medium", gone)
    assert "• files There is no scene with a file yet." in flat(await check(library, tmp_path))


async def test_a_package_that_does_not_tell_its_version_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("haven_vlm.checking.importlib.metadata.version", untold)
    assert "✓ aiohttp of unknown version" in flat(await check(Library("/data/film.mp4"), tmp_path))
