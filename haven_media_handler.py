"""Stash, as the rest of the connector sees it: the `StashGateway` over stashapp-tools.

`StashLibrary` runs one `StashClient` in one thread of its own and offers it to the event loop.

Importing this module imports stashapi and requests: the connector does so only after `bootstrap` has made
sure that they are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from haven_vlm import stash_tags, stash_writes
from haven_vlm.errors import StashError, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium, TagRef
from haven_vlm.own_thread import OwnThread
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_client import FIRST_PATIENCE_S, PLUGIN_ID, StashClient
from haven_vlm.stash_faults import PATIENCE_S
from haven_vlm.stash_ports import MediaFilter
from haven_vlm.stash_queries import (
    ALL_BY_ID,
    MARKER,
    is_id,
    marker_of,
    medium_fields,
    medium_of,
    tags_filter,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

_CLOSE_WAIT_S = 10.0
_LISTS = {Kind.SCENE: "find_scenes", Kind.IMAGE: "find_images", Kind.GALLERY: "find_galleries"}
_SINGLES = {Kind.SCENE: "find_scene", Kind.IMAGE: "find_image", Kind.GALLERY: "find_gallery"}


class StashLibrary:
    """The `StashGateway`; an async context manager that connects, and closes what it opened.

    A cancelled call that Stash already works on is carried out; one that still waits in line is dropped.

    Args:
        connection: from the plugin's input or from an address and an API key.
        plugin_id: whose settings page `plugin_settings` reads.
        timeout_s: as of `StashClient`; `stash_timeout` of the settings, once they are known.
        patience_s: how long a busy, locked or restarting Stash is waited for.
        clock, sleep: for tests; `sleep` blocks the gateway's thread.
        keep_alive_sleep: for tests; waits on the event loop.

    Raises, on entering:
        StashUnauthorized, StashUnavailable, StashRefused: no use of this Stash; says why.
    """

    def __init__(
        self,
        connection: StashConnection,
        *,
        plugin_id: str = PLUGIN_ID,
        timeout_s: float = 600.0,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        keep_alive_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self._plugin_id = plugin_id
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._clock = clock
        self._closing = threading.Event()
        self._sleep = sleep or self._pause
        self._keep_alive_sleep = keep_alive_sleep
        self._thread: OwnThread | None = None
        self._open_client: StashClient | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._thread is not None or self._closing.is_set():
            raise RuntimeError("a StashLibrary is entered once")
        self._thread = OwnThread("stash")
        try:
            self._open_client = await self._in_thread(
                lambda: StashClient(
                    self.connection,
                    timeout_s=self._timeout_s,
                    patience_s=self._patience_s,
                    first_patience_s=min(FIRST_PATIENCE_S, self._patience_s),
                    clock=self._clock,
                    sleep=self._sleep,
                )
            )
        except BaseException:
            self._closing.set()
            self._thread.stop()
            raise
        if self._open_client.needs_keep_alive:
            self._keeper = asyncio.create_task(self._keep_alive(), name="stash keep-alive")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._closing.set()
        assert self._thread is not None
        closed = self._thread.submit(self._client.transport.close)
        self._thread.stop()
        with contextlib.suppress(TimeoutError):  # a request that hangs is left to the daemon thread
            await asyncio.wait_for(asyncio.wrap_future(closed), _CLOSE_WAIT_S)

    def use_timeout(self, seconds: float) -> None:
        """Wait this long for an answer from now on (`stash_timeout`, known only after the settings were read)."""
        self._client.transport.timeout_s = seconds

    @property
    def version(self) -> str:
        """As Stash calls itself: 'v0.30.1'."""
        return self._client.version_text

    @property
    def login_ages(self) -> bool:
        """Whether the login is a session that ends some time after its last use, and no key."""
        return self._client.needs_keep_alive and self._client.wants_login

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen in any log line."""
        return self._client.transport.secrets

    @property
    def _client(self) -> StashClient:
        if self._open_client is None:
            raise RuntimeError("use StashLibrary as an async context manager")
        return self._open_client

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None or self._closing.is_set():
            raise RuntimeError("use StashLibrary as an async context manager")
        return await asyncio.wrap_future(self._thread.submit(work))

    async def _do(self, work: Callable[[StashClient], T]) -> T:
        client = self._client
        return await self._in_thread(lambda: work(client))

    def _pause(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise StashUnavailable("the connector ends")

    async def _keep_alive(self) -> None:
        """Ask for something now and then: each answer renews the cookie, which a run of hours outlives."""
        while True:
            await self._keep_alive_sleep(max(1.0, min(self._client.max_session_age_s / 3, 900.0)))
            try:
                await self._do(StashClient.keep_alive)
            except StashUnauthorized as exc:
                log.warning("%s", exc)
                return
            except StashError as exc:
                log.debug("keep-alive: %s", exc)

    async def plugin_settings(self) -> Mapping[str, object]:
        """What the settings page of this plugin holds; empty before anything was saved there."""
        found = await self._do(lambda client: client.find_plugin_config(self._plugin_id))
        return dict(found or {})

    async def ui_setting(self, key: str) -> object:
        """A setting of Stash's interface, such as 'vrTag' (name of the tag of VR scenes); None when never set."""
        configuration = await self._do(lambda client: client.get_configuration(fragment="ui"))
        return (configuration["ui"] or {}).get(key)

    # --- tags ---

    async def find_tag(self, name: str) -> TagRef | None:
        """The tag of exactly this name (first choice), else the one that has it as an alias; case is ignored."""
        return (await self.find_tags([name])).get(name)

    async def find_tags(self, names: Collection[str]) -> dict[str, TagRef]:
        """`find_tag` for many names in few round trips; names without a tag are left out."""
        return await self._do(lambda client: stash_tags.find_tags(client, names))

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        """Tags that still exist among these ids."""
        return await self._do(lambda client: stash_tags.tags_by_id(client, ids))

    async def tags_below(self, tag_id: str) -> list[TagRef]:
        """All descendants of a tag, each once, by name."""
        return await self._do(lambda client: stash_tags.tags_below(client, tag_id))

    async def create_tag(self, name: str, *, parent_id: str | None = None, description: str = "") -> TagRef:
        """Create a tag; raises `StashRefused` when the name clashes, and says with what."""
        return await self._do(
            lambda client: stash_tags.create_tag(
                client, client.patience, name, parent_id=parent_id, description=description
            )
        )

    async def unused_tags(self, ids: Collection[str]) -> set[str]:
        """Those of these tags that still exist and that nothing carries."""
        return await self._do(lambda client: stash_tags.unused_tags(client, ids))

    async def destroy_tags(self, ids: Sequence[str]) -> None:
        """Destroy tags; those that are gone already do not matter. A marker's primary tag is refused."""
        await self._do(lambda client: stash_tags.destroy_tags(client, ids))

    # --- media ---

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        """Ids of all media that carry this very tag, ascending by id."""
        return await self.media_ids_where(kind, with_tags=[tag_id])

    async def media_ids_where(
        self,
        kind: Kind,
        *,
        with_tags: Collection[str] = (),
        without_tags: Collection[str] = (),
        organized: bool | None = None,
    ) -> list[str]:
        """Ids of all media with all of these tags and none of those, ascending.

        Args:
            organized: only those that are (or are not) marked as organised; None: both.

        Raises:
            ValueError: no tag at all is named; that would be the whole library.
        """
        wanted: dict[str, object] = {"tags": tags_filter(with_tags=with_tags, without_tags=without_tags)}
        if organized is not None:
            wanted["organized"] = organized
        return sorted(await self._do(lambda client: _list(client, kind, wanted)), key=int)

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        """Ids of the images of a gallery, ascending."""
        wanted = {"galleries": {"value": [gallery_id], "modifier": "INCLUDES"}}
        return sorted(await self._do(lambda client: _list(client, Kind.IMAGE, wanted)), key=int) if gallery_id else []

    async def medium(self, kind: Kind, medium_id: str) -> Medium | None:
        """The medium as it is now; None when it does not exist (any more)."""
        if not is_id(medium_id) or not int(medium_id):
            return None

        def find(client: StashClient) -> Medium | None:
            fields = medium_fields(kind, zip_objects=client.zip_objects)
            row = getattr(client, _SINGLES[kind])(int(medium_id), fragment=fields)
            return medium_of(kind, row) if row else None

        return await self._do(find)

    async def scene(self, scene_id: str) -> tuple[Medium, list[Marker]] | None:
        """A scene and its markers as they are at one moment; None when it does not exist (any more)."""
        return await self._do(lambda client: stash_writes.scene(client, scene_id, zip_objects=client.zip_objects))

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        """Those of these media that exist, in few round trips."""
        return await self._do(lambda client: stash_writes.media(client, kind, ids, zip_objects=client.zip_objects))

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        """Ids of all media that fit, in the order wanted.

        Raises:
            ValueError: no criterion at all; that would be the whole library.
            StashRefused: Stash does not know the sort or a criterion.
        """
        if not wanted.criteria:
            raise ValueError("a filter without a criterion would match the whole library")
        order = {"per_page": -1, "sort": wanted.sort, "direction": "DESC" if wanted.descending else "ASC"}
        return await self._do(lambda client: _list(client, wanted.kind, wanted.criteria, order))

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        """Name or alias of a studio → its id; names without one are left out. Letter case is ignored."""
        return await self._do(lambda client: stash_writes.find_studios(client, names))

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """Add tags to media; those already there stay.

        Raises:
            StashGone: some media (`ids`) do not exist any more; the others have the tags now.
        """
        await self._do(lambda client: stash_writes.change_tags(client, kind, ids, tag_ids, mode="ADD"))

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """Take tags from media; other tags stay. Raises as `add_tags`."""
        await self._do(lambda client: stash_writes.change_tags(client, kind, ids, tag_ids, mode="REMOVE"))

    async def markers(self, scene_id: str) -> list[Marker]:
        """All markers of a scene, ascending by start. Raises `StashGone` without the scene."""
        return await self._do(lambda client: stash_writes.scene_markers(client, scene_id))

    async def markers_by_id(self, ids: Collection[str]) -> dict[str, Marker]:
        """Markers that still exist among these ids, on whatever scene they stand now."""
        return await self._do(lambda client: stash_writes.markers_by_id(client, ids))

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        """All markers that have this very tag as their primary tag or among the others, ascending by id."""
        wanted = {"tags": {"value": tags_filter(with_tags=[tag_id])["value"], "modifier": "INCLUDES", "depth": 0}}

        def find(client: StashClient) -> list[Marker]:
            rows = client.find_scene_markers(wanted, filter=dict(ALL_BY_ID), fragment=MARKER)
            return sorted(map(marker_of, rows), key=lambda marker: int(marker.id))

        return await self._do(find)

    async def create_markers(self, drafts: Sequence[MarkerDraft]) -> list[Marker]:
        """Create markers in few round trips; in the order of the drafts. Raises `PartialWrite`."""
        return await self._do(lambda client: stash_writes.create_markers(client, client.patience, drafts))

    async def destroy_markers(self, ids: Collection[str]) -> None:
        """Destroy these markers; those that are gone already do not matter."""
        await self._do(lambda client: stash_writes.destroy_markers(client, ids))

    async def move_marker(self, marker_id: str, start_ms: int, end_ms: int) -> None:
        """Give a marker another start and end. Raises `StashGone` without the marker."""
        await self._do(lambda client: stash_writes.move_marker(client, marker_id, start_ms, end_ms))

    async def tag_marker(self, marker_id: str, tag_id: str) -> None:
        """Add a secondary tag to a marker; those it has stay. Raises `StashGone` without the marker."""
        await self._do(lambda client: stash_writes.tag_marker(client, marker_id, tag_id))

    async def untag_markers(self, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
        """Take a tag off markers; those that are gone do not matter. `primary_tag_id`: their new primary tag."""
        await self._do(lambda client: stash_writes.untag_markers(client, ids, tag_id, primary_tag_id=primary_tag_id))

    def stream_url(self, kind: Kind, medium_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's own stream of the primary file, and the headers that authenticate there.

        With a cookie only, ask again before each new connection: cookies age. Redirects mean “not logged in”.

        Raises:
            StashRefused: galleries have no stream, and an id is a number.
        """
        if kind is Kind.GALLERY or not is_id(medium_id):
            raise StashRefused(f"Stash has no stream of {kind} {medium_id}")
        route = f"scene/{medium_id}/stream" if kind is Kind.SCENE else f"image/{medium_id}/image"
        return f"{self.connection.base_url}/{route}", self._client.transport.auth_headers()

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's small copy of an image, made when it is asked for; and headers, as `stream_url`.

        When Stash cannot make one it serves the image itself, or a drawing that stands for it.
        """
        url, headers = self.stream_url(Kind.IMAGE, image_id)
        return url.removesuffix("/image") + "/thumbnail", headers


def _list(
    client: StashClient, kind: Kind, wanted: Mapping[str, object], order: Mapping[str, object] = ALL_BY_ID
) -> list[str]:
    # fresh dictionaries: the library writes into those it is given, and into its defaults
    rows = getattr(client, _LISTS[kind])(f=dict(wanted), filter=dict(order), fragment="id")
    return [str(row["id"]) for row in rows]
