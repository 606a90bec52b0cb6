"""Images, plain and inside zips, and galleries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stash.servers import STILLS, ZIPPED, Server, jpeg

BULK = "mutation($i: BulkImageUpdateInput!) { bulkImageUpdate(input: $i) { id tags { name } } }"
UPDATE = "mutation($i: ImageUpdateInput!) { imageUpdate(input: $i) { id title tags { name } galleries { id } } }"
FIND = (
    'query($f: ImageFilterType) { findImages(image_filter: $f, filter: {per_page: -1, sort: "id"}) { images { id } } }'
)
GALLERY = "mutation($i: GalleryUpdateInput!) { galleryUpdate(input: $i) { title tags { name } } }"
GALLERIES = "mutation($i: BulkGalleryUpdateInput!) { bulkGalleryUpdate(input: $i) { tags { name } } }"


@pytest.fixture
def library(own_server: Server, media: Path) -> Server:
    own_server.scan(media)
    return own_server


def tags_of(server: Server, image: str) -> list[str]:
    found = server.data("query($i: ID) { findImage(id: $i) { tags { name } } }", i=image)["findImage"]
    return sorted(tag["name"] for tag in found["tags"])


def found(server: Server, image_filter: Any) -> list[str]:
    return [image["id"] for image in server.data(FIND, f=image_filter)["findImages"]["images"]]


def test_files_of_images_plain_and_zipped(library: Server, media: Path) -> None:
    result = library.data(
        """{ findImages(filter: {sort: "path", per_page: -1}) { count filesize images { title galleries { id }
            visual_files { __typename ... on ImageFile { path basename width height size format
                zip_file { path } parent_folder { path } fingerprint(type: "md5") } }
            files { path } } } }"""
    )["findImages"]
    assert result["count"] == STILLS + ZIPPED
    zipped = [image for image in result["images"] if image["visual_files"][0]["zip_file"]]
    plain = [image for image in result["images"] if not image["visual_files"][0]["zip_file"]]
    assert (len(zipped), len(plain)) == (ZIPPED, STILLS)
    entry = zipped[0]["visual_files"][0]
    assert entry["path"] == f"{media}/album.zip/court/p10.jpg"
    assert entry["zip_file"] == {"path": f"{media}/album.zip"}
    assert entry["parent_folder"] == {"path": f"{media}/album.zip/court"}
    assert (entry["__typename"], entry["basename"], entry["size"]) == ("ImageFile", "p10.jpg", len(jpeg(10)))
    assert all(len(image["galleries"]) == 1 for image in zipped)
    assert all(image["galleries"] == [] and image["title"] == "" for image in plain)
    assert all(image["files"] == [{"path": image["visual_files"][0]["path"]}] for image in result["images"])


def test_bulk_updates_are_atomic(library: Server) -> None:
    one, two = library.ids("images")[:2]
    court, ball = library.tag("Court"), library.tag("Ball")
    library.data(BULK, i={"ids": [one, two], "tag_ids": {"ids": [court, ball], "mode": "ADD"}})
    library.data(BULK, i={"ids": [one], "tag_ids": {"ids": [ball], "mode": "REMOVE"}})
    assert (tags_of(library, one), tags_of(library, two)) == (["Court"], ["Ball", "Court"])
    for mode in ("ADD", "REMOVE", "SET"):
        wanted = {"ids": [one, "999999"], "tag_ids": {"ids": [ball], "mode": mode}}
        assert library.refusal(BULK, i=wanted) == "image with id 999999 not found"
    wanted = {"ids": [one, two], "tag_ids": {"ids": ["999999"], "mode": "ADD"}}
    assert "FOREIGN KEY constraint failed" in library.refusal(BULK, i=wanted)
    assert tags_of(library, one) == ["Court"]
    assert library.data(BULK, i={"ids": []}) == {"bulkImageUpdate": None}


def test_single_updates(library: Server) -> None:
    one = library.ids("images")[0]
    court = library.tag("Court")
    done = library.data(UPDATE, i={"id": one, "title": " T ", "tag_ids": [court]})["imageUpdate"]
    assert (done["title"], done["tags"]) == ("T", [{"name": "Court"}])
    assert library.refusal(UPDATE, i={"id": "999999"}) == "image with id 999999 not found"


def test_criteria_on_images(library: Server) -> None:
    images = library.ids("images")
    gallery = library.ids("galleries")[0]
    court = library.tag("Court")
    zipped = found(library, {"galleries": {"value": [gallery], "modifier": "INCLUDES"}})
    plain = [image for image in images if image not in zipped]
    assert len(zipped) == ZIPPED
    assert found(library, {"galleries": {"modifier": "IS_NULL"}}) == plain
    assert found(library, {"path": {"value": "album.zip", "modifier": "INCLUDES"}}) == zipped
    library.data(BULK, i={"ids": plain, "tag_ids": {"ids": [court], "mode": "ADD"}})
    assert found(library, {"tags": {"value": [court], "modifier": "INCLUDES"}}) == plain
    assert found(library, {"tags": {"value": [], "modifier": "INCLUDES"}}) == images
    assert found(library, {"tags": {"value": [court], "modifier": "EXCLUDES"}}) == zipped
    assert found(library, {"is_missing": "tags"}) == zipped


def test_a_zip_is_a_gallery_whose_images_stay_as_they_are(library: Server, media: Path) -> None:
    gallery = library.ids("galleries")[0]
    shown = library.data(
        """query($i: ID!) { findGallery(id: $i) { title image_count folder { id } files { path basename }
            cover { id } first: image(index: 0) { visual_files { ... on ImageFile { basename } } } } }""",
        i=gallery,
    )["findGallery"]
    assert shown["files"] == [{"path": f"{media}/album.zip", "basename": "album.zip"}]
    assert (shown["title"], shown["image_count"], shown["folder"]) == ("", ZIPPED, None)
    assert shown["first"]["visual_files"] == [{"basename": "p10.jpg"}]
    plain = found(library, {"galleries": {"modifier": "IS_NULL"}})[0]
    message = 'changing galleries of image "still1.jpg": cannot change contents of zip-based gallery "album.zip"'
    assert library.refusal(UPDATE, i={"id": plain, "gallery_ids": [gallery]}) == message
    query = "mutation($g: ID!, $i: [ID!]!) { addGalleryImages(input: {gallery_id: $g, image_ids: $i}) }"
    message = 'cannot change contents of zip-based gallery "album.zip"'
    assert library.refusal(query, g=gallery, i=[plain]) == message


def test_tags_of_galleries(library: Server) -> None:
    gallery = library.ids("galleries")[0]
    court, ball = library.tag("Court"), library.tag("Ball")
    assert library.data(GALLERY, i={"id": gallery, "tag_ids": [court]})["galleryUpdate"]["tags"] == [{"name": "Court"}]
    add = {"ids": [gallery], "tag_ids": {"ids": [ball], "mode": "ADD"}}
    assert library.data(GALLERIES, i=add)["bulkGalleryUpdate"] == [{"tags": [{"name": "Ball"}, {"name": "Court"}]}]
    assert library.refusal(GALLERY, i={"id": "999999"}) == "gallery with id 999999 not found"
    wrong = {"ids": [gallery, "999999"], "tag_ids": {"ids": [court], "mode": "REMOVE"}}
    assert library.refusal(GALLERIES, i=wrong) == "sql: no rows in result set"
    query = "query($f: GalleryFilterType) { findGalleries(gallery_filter: $f) { count } }"
    both = {"tags": {"value": [court, ball], "modifier": "INCLUDES_ALL"}}
    assert library.data(query, f=both) == {"findGalleries": {"count": 1}}


def test_galleries_made_by_hand(library: Server) -> None:
    plain = found(library, {"galleries": {"modifier": "IS_NULL"}})
    create = "mutation($i: GalleryCreateInput!) { galleryCreate(input: $i) { id title } }"
    made = library.data(create, i={"title": " Best of "})["galleryCreate"]
    assert made["title"] == "Best of"
    assert library.refusal(create, i={"title": ""}) == "title must not be empty"
    query = "mutation($g: ID!, $i: [ID!]!) { addGalleryImages(input: {gallery_id: $g, image_ids: $i}) }"
    assert library.data(query, g=made["id"], i=plain[:2]) == {"addGalleryImages": True}
    shown = library.data("query($i: ID!) { findGallery(id: $i) { image_count } }", i=made["id"])
    assert shown == {"findGallery": {"image_count": 2}}
    message = "title must not be empty for user-created galleries"
    assert library.refusal(GALLERY, i={"id": made["id"], "title": ""}) == message


def test_destroying_a_zip_gallery_takes_its_images_along(library: Server) -> None:
    gallery = library.ids("galleries")[0]
    assert library.data("mutation($i: ID!) { galleryDestroy(input: {ids: [$i]}) }", i=gallery) == {
        "galleryDestroy": True
    }
    assert len(library.ids("images")) == STILLS


def test_bytes_of_images(library: Server, media: Path) -> None:
    for image in library.ids("images"):
        files = library.data(
            "query($i: ID) { findImage(id: $i) { visual_files { ... on ImageFile { path zip_file { id } } } } }",
            i=image,
        )["findImage"]["visual_files"]
        answer = library.get(f"/image/{image}/image")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
        if files[0]["zip_file"] is None:
            assert answer.content == Path(files[0]["path"]).read_bytes()
        else:
            assert answer.content == jpeg(20 if files[0]["path"].endswith("top.jpg") else int(files[0]["path"][-6:-4]))
        part = library.get(f"/image/{image}/image", Range="bytes=2-5")
        assert (part.status_code, part.content) == (206, answer.content[2:6])
    assert library.get("/image/999999/image").status_code == 404
    assert library.get("/image/x/image").status_code == 404


def test_an_image_whose_file_is_gone(library: Server, media: Path) -> None:
    gone = found(library, {"path": {"value": "still3", "modifier": "INCLUDES"}})[0]
    file = media / "still3.jpg"
    body = file.read_bytes()
    file.unlink()
    try:
        assert library.get(f"/image/{gone}/image").status_code in {404, 500}
    finally:
        file.write_bytes(body)
