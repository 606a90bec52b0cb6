"""Criteria on the files of scenes, images and galleries: path, duration, resolution, fingerprints."""

from __future__ import annotations

from collections.abc import Callable

from demo.stash.criteria import Condition, Conditions, Handler, Media, number_condition, text_condition
from demo.stash.store import Row, Store

RESOLUTION_PX: dict[str, tuple[int, int]] = {
    "VERY_LOW": (144, 239), "LOW": (240, 359), "R360P": (360, 479), "STANDARD": (480, 539), "WEB_HD": (540, 719),
    "STANDARD_HD": (720, 1079), "FULL_HD": (1080, 1439), "QUAD_HD": (1440, 1919), "VR_HD": (1920, 2159),
    "FOUR_K": (1920, 2559), "FIVE_K": (2560, 2999), "SIX_K": (3000, 3583), "SEVEN_K": (3584, 3839),
    "EIGHT_K": (3840, 6143), "HUGE": (6144, 2**31),
}  # fmt: skip
"""Shorter side in pixels, from and to inclusive."""


def of_file(media: Media, inner: Callable[[Row], Condition]) -> Handler:
    """True when one of the object's files meets the inner condition on `files`."""

    def handle(_store: Store, given: Row) -> Conditions:
        condition = inner(given)
        sql = (
            f"EXISTS (SELECT 1 FROM {media.files} mf JOIN files ON files.id = mf.file_id"
            f" WHERE mf.{media.key} = {media.table}.id AND ({condition.sql}))"
        )
        return [Condition(sql, condition.params)]

    return handle


def path(media: Media) -> Handler:
    return of_file(media, lambda given: text_condition("files.path", given))


def duration(media: Media) -> Handler:
    return of_file(media, lambda given: number_condition("CAST(files.duration AS INT)", given))


def resolution(media: Media) -> Handler:
    def inner(given: Row) -> Condition:
        low, high = RESOLUTION_PX[given["value"]]
        side = "MIN(files.width, files.height)"
        match given["modifier"]:
            case "EQUALS":
                return Condition(f"{side} BETWEEN {low} AND {high}")
            case "NOT_EQUALS":
                return Condition(f"{side} NOT BETWEEN {low} AND {high}")
            case "LESS_THAN":
                return Condition(f"{side} < {low}")
            case "GREATER_THAN":
                return Condition(f"{side} > {high}")
        return Condition("1")

    return of_file(media, inner)


def fingerprint(media: Media, kind: str) -> Handler:
    def inner(given: Row) -> Condition:
        column = (
            f"(SELECT fp.fingerprint FROM files_fingerprints fp WHERE fp.file_id = files.id AND fp.type = '{kind}')"
        )
        return text_condition(column, given)

    return of_file(media, inner)
