"""Tag Images from the button to the tags: every odd picture, archives, clips, galleries, and what may fail."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from PIL import Image

from demo.court import Canvas
from demo.footage import Plan
from demo.vision.faults import FaultKind, always, never
from haven_vlm.facts import Span
from tests.e2e.kills import IN_FLIGHT, SLOTS
from tests.e2e.rig import TAGS, Rig, rig, wait_for_questions
from tests.images.oddities import encoded, heic, png_header, zip_with

POINT, FOUL, DUNK = TAGS
TRIGGER = ("VLM_TagMe",)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "pictures").mkdir()
    with ExitStack() as stack:
        yield stack.enter_context(rig(tmp_path, tmp_path, version="v0.30.1"))


def court(*present: str, shot: int = 0, size: tuple[int, int] = (320, 180)) -> Image.Image:
    """A picture that says which tags apply."""
    return Canvas(*size).backdrop(shot, frozenset(present), TAGS)


def put(one: Rig, name: str, content: bytes, *, tags: Collection[str] = TRIGGER) -> int:
    """A file in the library; returns the image's id."""
    path = one.folder / "pictures" / name
    path.write_bytes(content)
    return one.stash.add_image(path, tags=tuple(tags), size=len(content))


def jpeg(*present: str, shot: int = 0, quality: int = 85) -> bytes:
    return encoded(court(*present, shot=shot), "JPEG", quality=quality)


def found(one: Rig, image: int) -> set[str]:
    """The tags of the vocabulary that an image has."""
    return set(one.stash.image_tags(image)) & set(TAGS)


def rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def moving(kind: str, *frames: Collection[str]) -> bytes:
    """An animation of courts."""
    first, *rest = [court(*present, shot=n) for n, present in enumerate(frames)]
    return encoded(first, kind, save_all=True, append_images=rest, duration=200)


def see_through(image: Image.Image) -> bytes:
    picture = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    return encoded(picture, "PNG", transparency=255)


def sixteen_bits(image: Image.Image) -> bytes:
    grey = image.convert("L")
    words = b"".join(bytes((v, v)) for v in grey.tobytes())
    return encoded(Image.frombytes("I;16", grey.size, words), "PNG")


def test_every_odd_picture_gets_the_tags_it_shows(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    wanted: dict[int, set[str]] = {}
    shot = iter(range(100))

    def add(name: str, content: bytes, *present: str) -> None:
        wanted[put(one, name, content)] = set(present)

    add("a.jpg", jpeg(POINT, shot=next(shot)), POINT)
    add("nothing.jpg", jpeg(shot=next(shot)))
    add("cmyk.jpg", encoded(court(FOUL, shot=next(shot)).convert("CMYK"), "JPEG"), FOUL)
    add("progressive.jpg", encoded(court(DUNK, shot=next(shot)), "JPEG", progressive=True), DUNK)
    add("turned.jpg", rotated(court(POINT, FOUL, shot=next(shot))), POINT, FOUL)
    add("sixteen.png", sixteen_bits(court(FOUL, DUNK, shot=next(shot))), FOUL, DUNK)
    add("palette.png", see_through(court(POINT, DUNK, shot=next(shot))), POINT, DUNK)
    add("a.webp", encoded(court(FOUL, shot=next(shot)), "WEBP"), FOUL)
    add("a.avif", encoded(court(DUNK, shot=next(shot)), "AVIF"), DUNK)
    add("large.jpg", encoded(court(POINT, shot=next(shot), size=(6400, 3600)), "JPEG"), POINT)
    add("named.png", encoded(court(FOUL, shot=next(shot)), "JPEG"), FOUL)  # not what its name says
    add("moving.gif", moving("GIF", [POINT], [], [DUNK]), POINT, DUNK)
    add("moving.webp", moving("WEBP", [FOUL], [POINT]), FOUL, POINT)
    add("moving.png", moving("PNG", [], [DUNK]), DUNK)
    archive = one.folder / "pictures" / "g.zip"
    names = ["試合/一.jpg", "試合/二.jpg"]
    inside = [jpeg(POINT, shot=next(shot)), moving("GIF", [FOUL], [DUNK])]
    zip_with(archive, [(n.encode("cp932"), c) for n, c in zip(names, inside, strict=True)])
    for name, content, present in zip(names, inside, ({POINT}, {FOUL, DUNK}), strict=True):
        wanted[one.stash.add_zip_image(archive, name, tags=TRIGGER, size=len(content))] = present
    plan = Plan(8_000, (Span(POINT, 0, 4_000, 1.0), Span(FOUL, 4_000, 8_000, 1.0)), TAGS, motion="busy")
    clip = one.clip("clip", plan)
    wanted[one.stash.add_clip(clip, tags=TRIGGER, duration=8.0)] = {POINT, FOUL}
    gif = one.folder / "pictures" / "as-stash-sees-it.gif"
    gif.write_bytes(moving("GIF", [DUNK], [], [FOUL, DUNK]))
    wanted[one.stash.add_clip(gif, tags=TRIGGER, duration=0.6, format="gif")] = {DUNK, FOUL}

    result = one.run("Tag Images")
    assert result.error is None, result.error
    assert {i: found(one, i) for i in wanted} == wanted
    for image in wanted:
        tags = one.stash.image_tags(image)
        assert "VLM_Tagged" in tags and "VLM_TagMe" not in tags
    assert f"Tagged {len(wanted)} of {len(wanted)} images" in result.output
    assert server.asked_twice() == {}


def test_what_cannot_be_read_is_marked_and_says_why(one: Rig) -> None:
    one.use(one.vision())
    good = put(one, "good.jpg", jpeg(POINT))
    whole = jpeg(FOUL, shot=3)
    broken = {
        put(one, "empty.jpg", b""): "the file is empty (0 bytes)",
        put(one, "cut.jpg", whole[: len(whole) // 3]): "it is cut off: the end of the picture is missing",
        put(one, "bomb.png", png_header(90_000, 90_000)): "it says that it is 90,000 × 90,000 pixels",
        put(one, "page.jpg", b"<!DOCTYPE html><p>404"): "it is a web page, which cannot be read here",
        put(one, "a.heic", heic()): "it is a picture in HEIC format, which cannot be read here, and Stash has no",
    }
    archive = one.folder / "pictures" / "broken.zip"
    archive.write_bytes(b"PK\x03\x04 no archive at all")
    broken[one.stash.add_zip_image(archive, "1.jpg", tags=TRIGGER)] = "broken.zip is damaged"
    result = one.run("Tag Images")
    assert result.exit_code == 1 and result.error
    assert found(one, good) == {POINT}
    report = json.loads(max((one.folder / "config" / "haven_vlm" / "reports").glob("*.json")).read_text())
    reasons = {int(m["id"]): m["reason"] for m in report["media"] if m["status"] == "errored"}
    assert reasons.keys() == broken.keys()
    for image, words in broken.items():
        assert words in reasons[image]
        tags = one.stash.image_tags(image)
        assert "VLM_Errored" in tags and "VLM_TagMe" in tags and "VLM_Tagged" not in tags
    assert "Tagged 1 of 7 images" in result.output
    assert "the file is empty" in result.output

    for image in broken:  # mended, it is read like any other, and the mark goes
        one.stash.untag_image(image, "VLM_TagMe")
    mended = next(i for i, words in broken.items() if "empty" in words)
    (one.folder / "pictures" / "empty.jpg").write_bytes(jpeg(DUNK, shot=9))
    one.stash.tag_image(mended, "VLM_TagMe")
    assert one.run("Tag Images").error is None
    assert found(one, mended) == {DUNK}
    assert "VLM_Errored" not in one.stash.image_tags(mended)


def test_what_is_not_on_this_machine_comes_through_stash(one: Rig) -> None:
    one.use(one.vision())
    image = put(one, "far.jpg", jpeg(FOUL))
    archive = one.folder / "pictures" / "far.zip"
    zip_with(archive, [(b"1.jpg", jpeg(DUNK, shot=2))])
    inside = one.stash.add_zip_image(archive, "1.jpg", tags=TRIGGER)
    plan = Plan(4_000, (Span(POINT, 0, 4_000, 1.0),), TAGS, motion="busy")
    clip = one.stash.add_clip(one.clip("far", plan), tags=TRIGGER, duration=4.0)
    one.settings["path_mutation"] = f"{one.folder}=/nowhere/at/all"
    result = one.run("Tag Images")
    assert result.error is None, result.error
    assert [found(one, i) for i in (image, inside, clip)] == [{FOUL}, {DUNK}, {POINT}]


def test_what_is_nowhere_keeps_its_trigger_and_no_blame(one: Rig) -> None:
    one.use(one.vision())
    image = put(one, "gone.jpg", jpeg(FOUL))
    (one.folder / "pictures" / "gone.jpg").unlink()
    result = one.run("Tag Images")
    assert result.error and "set path_mutation" in result.error
    assert one.stash.image_tags(image) == ["VLM_TagMe"]


def test_nothing_is_asked_twice_and_alike_neighbours_are_asked_once(one: Rig) -> None:
    server = one.vision(latency_s=0.02)
    one.use(server)
    images = [put(one, f"{n}.jpg", jpeg(*[DUNK] * (n // 3 % 2), shot=n // 3, quality=60 + n)) for n in range(12)]
    result = one.run("Tag Images")
    assert result.error is None
    assert len(server.questions()) == 4
    assert [found(one, i) for i in images] == [{DUNK} if n // 3 % 2 else set() for n in range(12)]
    for image in images:
        one.stash.tag_image(image, "VLM_TagMe")
    assert one.run("Tag Images").error is None
    assert len(server.questions()) == 4


def test_pictures_in_other_terms_are_asked_only_about_the_new_ones(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    image = put(one, "a.jpg", jpeg(POINT, DUNK))
    one.settings["tag_list"] = f"{POINT}, {FOUL}"
    assert one.run("Tag Images").error is None
    assert found(one, image) == {POINT}
    one.settings["tag_list"] = ", ".join(TAGS)
    one.stash.tag_image(image, "VLM_UpdateMe")
    assert one.run("Update Results").error is None
    assert found(one, image) == {POINT, DUNK}
    assert "VLM_UpdateMe" not in one.stash.image_tags(image)
    assert len(server.questions()) == 2


def test_a_gallery_gets_what_enough_of_its_images_share(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    images = [put(one, f"{n}.jpg", jpeg(*[POINT] * (n < 5), *[FOUL] * (n == 0), shot=n), tags=()) for n in range(10)]
    broken = put(one, "broken.jpg", b"", tags=())
    gallery = one.stash.add_gallery(title="Match", images=[*images, broken], tags=["VLM_TagMe", "Mine"])
    result = one.run("Tag Images")
    assert result.error is None, result.error
    assert set(one.stash.gallery_tags(gallery)) == {POINT, "Mine", "VLM_Tagged"}
    assert all(one.stash.image_tags(i) == [] for i in images)  # only what was tagged is written to
    assert len(server.questions()) == 10


def test_every_second_image_of_a_gallery(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    images = [put(one, f"{n}.jpg", jpeg(*[POINT] * (n % 2), shot=n), tags=()) for n in range(6)]
    gallery = one.stash.add_gallery(title="Match", images=images, tags=["VLM_TagMe"])
    assert one.run("Tag Images", {"gallery_every": "2", "gallery_share": "0.01"}).error is None
    assert one.stash.gallery_tags(gallery) == ["VLM_Tagged"]
    assert len(server.questions()) == 3


def test_a_gallery_of_nothing_readable_is_marked(one: Rig) -> None:
    one.use(one.vision())
    gallery = one.stash.add_gallery(images=[put(one, "a.jpg", b"", tags=())], tags=["VLM_TagMe"])
    empty = one.stash.add_gallery(title="Empty", tags=["VLM_TagMe"])
    result = one.run("Tag Images")
    assert result.error and "it has no image" in result.error
    assert "none of its images can be read (1× the file is empty (0 bytes))" in result.error
    for one_of_them in (gallery, empty):
        assert one.stash.gallery_tags(one_of_them) == ["VLM_Errored", "VLM_TagMe"]


def test_a_zip_gallery_under_the_users_own_hands(one: Rig) -> None:
    one.use(one.vision())
    archive = one.folder / "pictures" / "g.zip"
    zip_with(archive, [(f"{n}.jpg".encode(), jpeg(DUNK, shot=n)) for n in range(4)])
    images = [one.stash.add_zip_image(archive, f"{n}.jpg") for n in range(4)]
    gallery = one.stash.add_gallery(images=images, zip_path=archive, tags=["VLM_TagMe"])
    assert one.run("Tag Images").error is None
    assert set(one.stash.gallery_tags(gallery)) == {DUNK, "VLM_Tagged"}


def test_a_preview_writes_nothing_and_undo_takes_everything_back(one: Rig) -> None:
    one.use(one.vision())
    image = put(one, "a.jpg", jpeg(POINT), tags=("VLM_TagMe", "Mine"))
    gallery = one.stash.add_gallery(images=[image], tags=["VLM_TagMe"])
    before = one.stash.snapshot()
    preview = one.run("Preview")
    assert preview.error is None and one.stash.snapshot() == before
    assert "Looked at 2 of 2 media (1 image, 1 gallery)" in preview.output
    assert one.run("Tag Images").error is None
    assert set(one.stash.image_tags(image)) == {POINT, "Mine", "VLM_Tagged"}
    assert set(one.stash.gallery_tags(gallery)) == {POINT, "VLM_Tagged"}
    assert one.run("Undo Last Run").error is None
    assert one.stash.image_tags(image) == ["Mine", "VLM_TagMe"]
    assert one.stash.gallery_tags(gallery) == ["VLM_TagMe"]


def test_what_the_user_takes_off_is_not_put_on_again(one: Rig) -> None:
    one.use(one.vision())
    images = [put(one, f"{n}.jpg", jpeg(POINT, FOUL, shot=n)) for n in range(3)]
    one.run("Tag Images")
    one.stash.untag_image(images[1], FOUL)
    for image in images:
        one.stash.tag_image(image, "VLM_TagMe")
    assert one.run("Tag Images").error is None
    assert [found(one, i) for i in images] == [{POINT, FOUL}, {POINT}, {POINT, FOUL}]


def test_local_images_never_leave_and_do_not_hold_up_the_others(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    image = put(one, "a.jpg", jpeg(POINT), tags=("VLM_TagMe", "VLM_LocalOnly"))
    assert one.run("Tag Images").error is None
    assert found(one, image) == {POINT}
    assert "no frame left the network" in one.run("Tag Images", {"ids": str(image)}).output


def test_answers_that_do_not_come_leave_the_image_as_it_was(one: Rig) -> None:
    server = one.vision(script=always(FaultKind.REFUSAL))
    one.use(server)
    image = put(one, "a.jpg", jpeg(POINT))
    result = one.run("Tag Images")
    assert result.error and "could not be analysed" in result.error
    assert one.stash.image_tags(image) == ["VLM_TagMe"]
    server.script = never
    assert one.run("Tag Images").error is None
    assert found(one, image) == {POINT}


def test_a_killed_run_goes_on_where_it_was(one: Rig) -> None:
    server = one.vision(latency_s=0.05, slots=SLOTS)
    one.use(f"{server.base_url} max={SLOTS}")
    images = [put(one, f"{n}.jpg", jpeg(*[TAGS[n % 3]], shot=n)) for n in range(24)]
    process = one.start("Tag Images")
    wait_for_questions(server, 8)
    process.kill()
    process.wait(10)
    assert one.run("Tag Images").error is None
    assert [found(one, i) for i in images] == [{TAGS[n % 3]} for n in range(24)]
    twice = server.asked_twice()
    assert sum(twice.values()) - len(twice) <= IN_FLIGHT  # what was on its way when it died
    assert one.run("Undo Last Run", {"everything": True}).error is None
    assert all(one.stash.image_tags(i) == ["VLM_TagMe"] for i in images)


def test_everything_that_was_not_looked_at_but_for_what_is_left_out(one: Rig) -> None:
    one.use(one.vision())
    plain = put(one, "a.jpg", jpeg(POINT), tags=())
    skipped = put(one, "b.jpg", jpeg(POINT, shot=1), tags=("Private",))
    done = put(one, "c.jpg", jpeg(POINT, shot=2), tags=("VLM_Tagged",))
    (one.folder / "pictures" / "x").mkdir()
    elsewhere = put(one, "x/d.jpg", jpeg(POINT, shot=3), tags=())
    args = {"select": "untagged", "skip_tags": "Private", "skip_paths": str(one.folder / "pictures" / "x")}
    assert one.run("Tag Images", args).error is None
    assert [found(one, i) for i in (plain, skipped, done, elsewhere)] == [{POINT}, set(), set(), set()]
    wrong = one.run("Tag Images", {"select": "untagged", "skip_tags": "Privat, Mine"})
    assert wrong.error == "skip_tags: Stash has no tag “Privat”; skip_tags: Stash has no tag “Mine”"


def test_studios_are_left_out_with_those_below_them(one: Rig) -> None:
    one.use(one.vision())
    post = "mutation($i: StudioCreateInput!) { studioCreate(input: $i) { id } }"

    def studio(**given: object) -> str:
        body = {"query": post, "variables": {"i": given}}
        answer = requests.post(one.stash.graphql_url, json=body, timeout=60).json()
        return str(answer["data"]["studioCreate"]["id"])

    league = studio(name="League", aliases=["The Big One"])
    amateur = studio(name="Amateur", parent_id=league)
    places = (None, league, studio(name="Youth", parent_id=amateur), studio(name="Street Ball"))
    images = [put(one, f"{n}.jpg", jpeg(POINT, shot=n), tags=()) for n in range(len(places))]
    for image, place in zip(images, places, strict=True):
        one.stash.store.run("UPDATE images SET studio_id = ? WHERE id = ?", place, image)
    assert one.run("Tag Images", {"select": "untagged", "skip_studios": "the big one"}).error is None
    assert [found(one, i) for i in images] == [{POINT}, set(), set(), {POINT}]
    wrong = one.run("Tag Images", {"select": "untagged", "skip_studios": "Leage"})
    assert wrong.error == "skip_studios: Stash has no studio “Leage”"


def test_the_newest_few(one: Rig) -> None:
    one.use(one.vision())
    images = []
    for n in range(4):
        images.append(put(one, f"{n}.jpg", jpeg(POINT, shot=n)))
        one.stash.advance(60)
    assert one.run("Tag Images", {"select_order": "newest", "select_limit": "2"}).error is None
    assert [bool(found(one, i)) for i in images] == [False, False, True, True]


def test_a_picture_with_all_formats_in_one_batch_is_not_spoilt_by_a_gone_one(one: Rig) -> None:
    server = one.vision(latency_s=0.1, slots=1)
    one.use(server)
    images = [put(one, f"{n}.jpg", jpeg(POINT, shot=n)) for n in range(5)]
    process = one.start("Tag Images")
    wait_for_questions(server, 2)
    one.stash.delete("images", images[0])
    result = process.wait(60)
    assert result.error is None, result.error
    assert [found(one, i) for i in images[1:]] == [{POINT}] * 4
    assert "Tagged 4 of 5 images" in result.output
    assert "it was deleted from Stash in the meantime" in result.output


def test_the_shape_of_the_library_does_not_matter(one: Rig, tmp_path: Path) -> None:
    """Pictures that Stash calls by a folder which this machine knows by another name."""
    one.use(one.vision())
    image = put(one, "a.jpg", jpeg(DUNK))
    moved = tmp_path / "elsewhere"
    shutil.move(one.folder / "pictures", moved)
    one.settings["path_mutation"] = f"{one.folder / 'pictures'}={moved}"
    assert one.run("Tag Images").error is None
    assert found(one, image) == {DUNK}


def test_a_court_survives_what_is_done_to_it() -> None:
    with Image.open(io.BytesIO(rotated(court(POINT)))) as image:
        assert image.size == (180, 320)
