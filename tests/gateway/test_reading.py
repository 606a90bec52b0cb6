"""What Stash holds, as facts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from demo.stash import EmbeddedStash
from haven_media_handler import StashLibrary
from haven_vlm.errors import StashGone, StashRefused
from haven_vlm.facts import Kind, Marker
from haven_vlm.stash_client import PLUGIN_ID
from haven_vlm.stash_ports import MediaFilter, StashCollections
from tests.gateway.support import library


@pytest.fixture
async def stash() -> AsyncIterator[EmbeddedStash]:
    async with EmbeddedStash() as running:
        yield running


@pytest.fixture
async def lib(stash: EmbeddedStash) -> AsyncIterator[StashLibrary]:
    async with library(stash) as connected:
        yield connected


async def test_settings_page_and_interface(stash: EmbeddedStash, lib: StashLibrary) -> None:
    assert await lib.plugin_settings() == {}
    stash.settings.configure_plugin(PLUGIN_ID, {"threshold": "0.4", "create_markers": True})
    assert await lib.plugin_settings() == {"threshold": "0.4", "create_markers": True}
    assert await lib.ui_setting("vrTag") is None
    stash.settings.ui = {"vrTag": "Virtual Reality"}
    assert await lib.ui_setting("vrTag") == "Virtual Reality"


# --- tags -----------------------------------------------------------------------------------------------------


async def test_tags_are_found_as_stash_compares_them_but_exactly(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Stash's own look-up takes _ and % for wildcards: VLM_TagMe finds “VLM TagMe” there, and not here."""
    mine = stash.add_tag("vlm_tagme")
    stash.add_tag("VLM TagMe")
    stash.add_tag("VLMxTagMe")
    court = stash.add_tag("Court", aliases=["Hardwood", "100%"])
    stash.add_tag("hardwood floor")
    umlaut = stash.add_tag("Überzahl")
    names = ["VLM_TagMe", "HARDWOOD", "100%", " court ", "überzahl", "Überzahl", "nothing", "%", "", "  "]
    found = await lib.find_tags(names)
    assert {name: tag.id for name, tag in found.items()} == {
        "VLM_TagMe": str(mine),
        "HARDWOOD": str(court),
        "100%": str(court),
        " court ": str(court),
        "Überzahl": str(umlaut),
    }
    assert await lib.find_tag("nothing") is None


async def test_a_name_beats_an_alias_and_exact_spelling_beats_folded(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Stash refuses such twins today; libraries that grew up with older versions have them."""
    arena, court, foul = stash.add_tag("Arena"), stash.add_tag("Court"), stash.add_tag("foul")
    for alias in ("Court", "FOUL"):
        stash.store.run("INSERT INTO tag_aliases (tag_id, alias) VALUES (?, ?)", arena, alias)
    assert {name: tag.id for name, tag in (await lib.find_tags(["Court", "Foul"])).items()} == {
        "Court": str(court),
        "Foul": str(foul),
    }


async def test_all_of_a_tag(stash: EmbeddedStash, lib: StashLibrary) -> None:
    parent = stash.add_tag("VLM")
    stash.add_tag("Court", aliases=["Hardwood", "Parquet"], parents=["VLM"], description="Where it happens")
    tag = await lib.find_tag("court")
    assert tag
    assert (tag.name, sorted(tag.aliases), tag.description) == ("Court", ["Hardwood", "Parquet"], "Where it happens")
    assert tag.parent_ids == (str(parent),)
    assert (await lib.tags_by_id([tag.id, "999", "x", ""])) == {tag.id: tag}


async def test_a_vocabulary_costs_few_requests(stash: EmbeddedStash, lib: StashLibrary) -> None:
    with stash.seeding():
        for number in range(120):
            stash.add_tag(f"Play {number}")
    before = len(stash.requests)
    found = await lib.find_tags([f"play {number}" for number in range(120)])
    assert [tag.name for tag in found.values()] == [f"Play {number}" for number in range(120)]
    assert len(await lib.tags_by_id([tag.id for tag in found.values()])) == 120
    assert len(stash.requests) - before == 6


async def test_unused_tags(stash: EmbeddedStash, lib: StashLibrary) -> None:
    names = ["free", "on scene", "on image", "on gallery", "primary", "secondary", "parent", "child of parent"]
    ids = {name: str(stash.add_tag(name)) for name in names[:-1]}
    ids["child of parent"] = str(stash.add_tag("child of parent", parents=["parent"]))
    scene = stash.add_scene("/media/game.mp4", tags=["on scene"])
    stash.add_image("/media/still.jpg", tags=["on image"])
    stash.add_gallery(title="Season", tags=["on gallery"])
    stash.add_marker(scene, 1.0, "primary", tags=["secondary"])
    assert await lib.unused_tags([*ids.values(), "999"]) == {ids["free"], ids["child of parent"]}


# --- selection ------------------------------------------------------------------------------------------------


async def test_ids_by_tag_ascending_without_children(stash: EmbeddedStash, lib: StashLibrary) -> None:
    stash.add_tag("VLM_TagMe")
    stash.add_tag("child", parents=["VLM_TagMe"])
    with stash.seeding():
        wanted = [stash.add_scene(f"/media/{n}.mp4", tags=["VLM_TagMe"] if n % 2 else ["child"]) for n in range(60)]
    image = stash.add_image("/media/still.jpg", tags=["VLM_TagMe"])
    gallery = stash.add_gallery(title="Season", tags=["VLM_TagMe"])
    tag = await lib.find_tag("VLM_TagMe")
    assert tag
    assert await lib.media_ids(Kind.SCENE, tag.id) == [str(n) for n in wanted[1::2]]
    assert await lib.media_ids(Kind.IMAGE, tag.id) == [str(image)]
    assert await lib.media_ids(Kind.GALLERY, tag.id) == [str(gallery)]


@pytest.mark.parametrize("tag_id", ["", "0x1", "VLM_TagMe", "1; drop"])
async def test_no_selection_without_a_tag(lib: StashLibrary, stash: EmbeddedStash, tag_id: str) -> None:
    """Stash answers a criterion without a tag with the whole library."""
    stash.add_scene("/media/game.mp4")
    before = len(stash.requests)
    with pytest.raises(ValueError):
        await lib.media_ids(Kind.SCENE, tag_id)
    with pytest.raises(ValueError):
        await lib.media_ids_where(Kind.SCENE)
    assert len(stash.requests) == before


async def test_everything_without_a_tag(stash: EmbeddedStash, lib: StashLibrary) -> None:
    tagged = str(stash.add_tag("VLM_Tagged"))
    court = str(stash.add_tag("Court"))
    plain = stash.add_scene("/media/1.mp4")
    stash.add_scene("/media/2.mp4", tags=["VLM_Tagged", "Court"])
    both = stash.add_scene("/media/3.mp4", tags=["Court"], organized=True)
    where = lib.media_ids_where
    assert await where(Kind.SCENE, without_tags=[tagged]) == [str(plain), str(both)]
    assert await where(Kind.SCENE, without_tags=[tagged], organized=False) == [str(plain)]
    assert await where(Kind.SCENE, with_tags=[court], without_tags=[tagged]) == [str(both)]
    assert await where(Kind.SCENE, with_tags=[court], organized=True) == [str(both)]


async def test_a_filter_of_stash_in_the_order_wanted(stash: EmbeddedStash, lib: StashLibrary) -> None:
    images = [str(stash.add_image(f"/media/{number}.jpg", tags=["Court"])) for number in range(3)]
    tags = {"value": [str(stash.tag_id("Court"))], "modifier": "INCLUDES"}
    assert await lib.find_ids(MediaFilter(Kind.IMAGE, {"tags": tags}, descending=True)) == images[::-1]
    assert await lib.find_ids(MediaFilter(Kind.IMAGE, {"tags": tags}, sort="path")) == images
    with pytest.raises(StashRefused, match="invalid sort"):
        await lib.find_ids(MediaFilter(Kind.IMAGE, {"tags": tags}, sort="shoe size"))
    with pytest.raises(StashRefused):
        await lib.find_ids(MediaFilter(Kind.IMAGE, {"shoe_size": 43}))
    with pytest.raises(ValueError):
        await lib.find_ids(MediaFilter(Kind.IMAGE, {}))


# --- media ----------------------------------------------------------------------------------------------------


async def test_a_scene(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scene = stash.add_scene("/media/game.mp4", duration=61.5, tags=["Court"], width=1280, height=720, size=12345)
    stash.add_scene_file(scene, "/media/copy.mkv", duration=60.0)
    medium = await lib.medium(Kind.SCENE, str(scene))
    assert medium
    assert (medium.kind, medium.id, medium.title, medium.organized) == (Kind.SCENE, str(scene), "game.mp4", False)
    assert medium.tag_ids == {str(stash.tag_id("Court"))}
    assert [file.path for file in medium.files] == ["/media/game.mp4", "/media/copy.mkv"]
    first = medium.files[0]
    assert (first.duration_s, first.width_px, first.height_px, first.size_bytes) == (61.5, 1280, 720, 12345)
    assert first.is_video and first.zip_path is None
    assert first.identity.startswith("oshash:")
    assert datetime.fromisoformat(medium.updated_at)


async def test_when_a_scene_was_changed(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scene = str(stash.add_scene("/media/game.mp4"))
    before = await lib.medium(Kind.SCENE, scene)
    stash.advance(60)
    await lib.add_tags(Kind.SCENE, [scene], [str(stash.add_tag("Court"))])
    after = await lib.medium(Kind.SCENE, scene)
    assert before and after
    assert datetime.fromisoformat(before.updated_at) < datetime.fromisoformat(after.updated_at)


async def test_a_badly_probed_scene_and_one_without_a_file(stash: EmbeddedStash, lib: StashLibrary) -> None:
    odd = await lib.medium(Kind.SCENE, str(stash.add_scene("/media/odd.avi", duration=0, width=0, height=0)))
    assert odd and odd.files[0].duration_s is None
    ghost_id = stash.add_scene("/media/gone.mp4", title="Final")
    stash.store.run("DELETE FROM scenes_files WHERE scene_id = ?", ghost_id)
    ghost = await lib.medium(Kind.SCENE, str(ghost_id))
    assert ghost and (ghost.title, ghost.files) == ("Final", ())


async def test_images_clips_and_zips(stash: EmbeddedStash, lib: StashLibrary) -> None:
    still = await lib.medium(Kind.IMAGE, str(stash.add_image("/media/still.jpg")))
    clip = await lib.medium(Kind.IMAGE, str(stash.add_clip("/media/loop.mp4", duration=4.0)))
    zipped = await lib.medium(Kind.IMAGE, str(stash.add_zip_image("/media/season.zip", "day 1/a.jpg")))
    assert still and clip and zipped
    assert (still.files[0].is_video, still.files[0].zip_path, still.files[0].duration_s) == (False, None, None)
    assert (clip.files[0].is_video, clip.files[0].duration_s) == (True, 4.0)
    assert zipped.files[0].zip_path == "/media/season.zip"
    assert zipped.files[0].path == "/media/season.zip/day 1/a.jpg"
    assert not zipped.files[0].is_video


async def test_galleries(stash: EmbeddedStash, lib: StashLibrary) -> None:
    images = [stash.add_image(f"/media/season/{number}.jpg") for number in (1, 2, 10)]
    gallery = stash.add_gallery(title="Season", images=images, tags=["Court"])
    other = stash.add_gallery(title="Other")
    medium = await lib.medium(Kind.GALLERY, str(gallery))
    assert medium and (medium.kind, medium.title) == (Kind.GALLERY, "Season")
    assert await lib.gallery_image_ids(str(gallery)) == [str(image) for image in images]
    assert await lib.gallery_image_ids(str(other)) == []
    assert await lib.gallery_image_ids("") == []


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("medium_id", ["999", "0", "x", "", "-1", "9" * 30, "１"])
async def test_what_is_not_there(lib: StashLibrary, kind: Kind, medium_id: str) -> None:
    assert await lib.medium(kind, medium_id) is None


@pytest.mark.parametrize("kind", list(Kind))
async def test_many_media_at_once_whoever_is_missing(stash: EmbeddedStash, lib: StashLibrary, kind: Kind) -> None:
    with stash.seeding():
        if kind is Kind.SCENE:
            ids = [str(stash.add_scene(f"/media/{number}.mp4", tags=["Court"])) for number in range(120)]
        elif kind is Kind.IMAGE:
            ids = [str(stash.add_image(f"/media/{number}.jpg", tags=["Court"])) for number in range(120)]
        else:
            ids = [str(stash.add_gallery(title=f"Season {number}", tags=["Court"])) for number in range(120)]
    before = len(stash.requests)
    found = await lib.media(kind, ["998", *ids, ids[0], "999", "x"])
    assert sorted(found, key=int) == ids
    assert len(stash.requests) - before == 4
    assert found[ids[7]] == await lib.medium(kind, ids[7])
    assert await lib.media(kind, []) == {}


def as_port(lib: StashLibrary) -> StashCollections:
    """The type checker's proof that the library is what the ports promise."""
    return lib


async def test_streams(stash: EmbeddedStash, lib: StashLibrary) -> None:
    url, headers = lib.stream_url(Kind.IMAGE, "5")
    assert url == f"{stash.url}/image/5/image"
    assert list(headers) == ["Cookie"]
    assert as_port(lib).thumbnail_url("5") == (f"{stash.url}/image/5/thumbnail", headers)
    for kind, medium_id in ((Kind.GALLERY, "1"), (Kind.SCENE, "1/../2"), (Kind.SCENE, "")):
        with pytest.raises(StashRefused):
            lib.stream_url(kind, medium_id)


# --- markers --------------------------------------------------------------------------------------------------


async def test_markers(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scene = stash.add_scene("/media/game.mp4")
    court, foul = (str(stash.add_tag(name)) for name in ("Court", "Foul"))
    late = stash.add_marker(scene, 12, "Court", title="Late", end_seconds=13.0005, tags=["Foul"])
    early = stash.add_marker(scene, 0.1, "Foul")
    found = await lib.markers(str(scene))
    assert found == [
        Marker(str(early), str(scene), found[0].title, 100, None, foul),
        Marker(str(late), str(scene), "Late", 12_000, 13_000, court, (foul,)),
    ]
    assert await lib.markers_with_tag(foul) == [found[1], found[0]]
    assert await lib.markers_with_tag(court) == [found[1]]
    assert await lib.markers_by_id([str(late), str(early), "x"]) == {str(late): found[1], str(early): found[0]}


async def test_markers_by_id_whoever_is_missing(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Stash fails a look-up of markers for the first unknown id."""
    scene = stash.add_scene("/media/game.mp4")
    stash.add_tag("Court")
    kept = [str(stash.add_marker(scene, second, "Court")) for second in range(70)]
    asked = [marker for pair in zip(kept, map(str, range(1000, 1005)), strict=False) for marker in pair] + kept[5:]
    assert sorted(await lib.markers_by_id(asked), key=int) == kept
    assert await lib.markers_by_id(["1000", "1001"]) == {}
    assert await lib.markers_by_id([]) == {}


async def test_markers_of_a_scene_that_is_gone(lib: StashLibrary) -> None:
    for scene_id in ("999", "x"):
        with pytest.raises(StashGone, match="not in Stash") as caught:
            await lib.markers(scene_id)
        assert caught.value.ids == (scene_id,)


async def test_a_scene_with_its_markers_is_one_request(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scene = str(stash.add_scene("/media/final.mp4", duration=60.0, tags=["Court"]))
    stash.add_marker(int(scene), 5.0, "Court", end_seconds=6.5, title="late")
    stash.add_marker(int(scene), 1.0, "Court", title="early")
    before = len(stash.requests)
    found = await lib.scene(scene)
    assert len(stash.requests) == before + 1
    assert found == (await lib.medium(Kind.SCENE, scene), await lib.markers(scene))
    assert [m.title for m in found[1]] == ["early", "late"]


@pytest.mark.parametrize("scene_id", ["999", "0", "x", "", "-1", "9" * 30, "１"])
async def test_a_scene_that_is_not_there(lib: StashLibrary, scene_id: str) -> None:
    assert await lib.scene(scene_id) is None
