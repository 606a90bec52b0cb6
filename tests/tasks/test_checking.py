"""The check names what is wrong and what is there; it never raises and never writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from haven_vlm.checking import check_endpoint, check_everything, with_servers_found
from haven_vlm.endpoint import HttpEndpoint
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

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        return ["1"]

    async def medium(self, kind: Kind, medium_id: str) -> Medium:
        return Medium(kind, medium_id, "Game", (MediaFile(self._path, 1),), frozenset())


async def found() -> tuple[Found, ...]:
    return (OTHER,)


async def test_everything_that_is_wrong_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.touch()
    async with (
        Journal(tmp_path / "ledger.sqlite") as journal,
        HttpEndpoint(SETTINGS.endpoints[0]) as endpoint,
    ):
        findings = await check_everything(
            settings=SETTINGS,
            endpoints=[endpoint],
            gateway=Library(str(film)),  # type: ignore[arg-type]
            stash_version="v0.30.1",
            journal=journal,
            data_dir=tmp_path,
            find_servers=found,
        )
    lines = [str(f) for f in findings]
    assert lines[0].startswith("✗ Desktop (http://127.0.0.1:9/v1): ")
    assert lines[1] == (
        "✓ On this machine llama.cpp answers at http://127.0.0.1:8080/v1; to use it, add that to endpoints."
    )
    assert lines[2] == "✓ Stash v0.30.1 answers; 1 scene tagged “VLM_TagMe”."
    assert lines[3] == f"✓ {film} can be read here."
    assert "The ledger holds 0 answers" in lines[4]
    assert "are free in" in lines[5]


async def test_a_stash_that_is_gone_is_one_finding(tmp_path: Path) -> None:
    async with Journal(tmp_path / "ledger.sqlite") as journal:
        findings = await check_everything(
            settings=SETTINGS,
            endpoints=[],
            gateway=Library("", down=True),  # type: ignore[arg-type]
            stash_version="v0.30.1",
            journal=journal,
            data_dir=tmp_path,
            find_servers=found,
        )
    assert "✗ Stash: nobody answers" in [str(f) for f in findings]


async def test_a_file_that_is_not_here_is_told_with_the_setting(tmp_path: Path) -> None:
    async with Journal(tmp_path / "ledger.sqlite") as journal:
        findings = await check_everything(
            settings=SETTINGS,
            endpoints=[],
            gateway=Library("/data/film.mp4"),  # type: ignore[arg-type]
            stash_version="v0.30.1",
            journal=journal,
            data_dir=tmp_path,
            find_servers=found,
        )
    assert any("path_mutation" in f.text and f.ok for f in findings)


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


async def test_a_dead_endpoint_is_a_finding_with_its_fix() -> None:
    async with HttpEndpoint(SETTINGS.endpoints[0]) as endpoint:
        finding = await check_endpoint(endpoint)
    assert not finding.ok and "127.0.0.1:9" in finding.text
