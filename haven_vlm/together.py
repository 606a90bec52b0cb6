"""A gateway for many who do the same at the same time: their requests go to Stash together, their results apart.

Each medium is written as carefully as if it were alone (planned, recorded, settled by reading back), and yet a
hundred of them cost one request: while all who take part wait for Stash, what they wait for is sent in bulk, one
kind of request after the other. One medium that is gone fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from haven_vlm.errors import StashGone, StashRefused
from haven_vlm.facts import Kind, Medium, TagRef
from haven_vlm.stash_ports import StashCollections

LINGER_S = 5.0
"""So long a request waits for company at most, whatever the others are doing."""

_ADD, _TAGS, _REMOVE, _LOOK = range(4)
"""Order of what is sent while several kinds wait: changing goes on until nobody changes any more, then all look."""

_Key = tuple[int, str, tuple[str, ...]]
"""Order, kind of media, tags."""


@dataclass(slots=True)
class _Group:
    send: Callable[[list[str]], Awaitable[dict[str, Any]]]
    waiting: list[tuple[tuple[str, ...], asyncio.Future[Any]]] = field(default_factory=list)
    """Ids asked about, and whoever asks."""

    def give_up(self) -> None:
        """Cancel those who still wait."""
        for _, future in self.waiting:
            future.cancel()  # does nothing to those who have their answer


class Together:
    """A `StashGateway` whose reading of media and changing of their tags is shared; everything else passes through.

    Nobody can wait for ever: while a request waits, one is under way or an alarm is set, and each ends with sending
    the next; whatever way a sending ends, nobody who waited for it waits any longer.

    Args:
        gateway: the real one.
        linger_s: see `LINGER_S`.
    """

    def __init__(self, gateway: StashCollections, *, linger_s: float = LINGER_S) -> None:
        self._gateway = gateway
        self._linger_s = linger_s
        self._taking_part = 0
        self._groups: dict[_Key, _Group] = {}
        self._sending: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    @asynccontextmanager
    async def taking_part(self, count: int) -> AsyncIterator[Callable[[], None]]:
        """So many will be at work; yields what each of them calls when it is done. Requests go out when all wait."""
        left = count
        self._taking_part += count

        def done() -> None:
            nonlocal left
            left -= 1
            self._taking_part -= 1
            self._look_round()

        try:
            yield done
        finally:
            self._taking_part -= left
            if self._taking_part:
                self._look_round()
            else:
                await self._close()

    async def _close(self) -> None:
        """Nobody takes part any more; what they may have left behind is given up."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        groups, self._groups = self._groups, {}
        for group in groups.values():
            group.give_up()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    # --- shared requests --------------------------------------------------------------------------------------

    async def medium(self, kind: Kind, medium_id: str) -> Medium | None:
        """See `StashGateway.medium`."""

        async def send(ids: list[str]) -> dict[str, Any]:
            found = await self._gateway.media(kind, ids)
            return {i: found.get(i) for i in ids}

        result: dict[str, Medium | None] = await self._share((_LOOK, kind, ()), [medium_id], send)
        return result[medium_id]

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        """See `StashGateway.tags_by_id`."""

        async def send(ids: list[str]) -> dict[str, Any]:
            found = await self._gateway.tags_by_id(ids)
            return {i: found.get(i) for i in ids}

        result: dict[str, TagRef | None] = await self._share((_TAGS, "", ()), ids, send)
        return {i: tag for i, tag in result.items() if tag is not None}

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """See `StashGateway.add_tags`."""
        await self._change(_ADD, kind, ids, tag_ids)

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """See `StashGateway.remove_tags`."""
        for tag_id in sorted(tag_ids):  # each for itself, in one order: there are fewer tags than sets of tags
            await self._change(_REMOVE, kind, ids, [tag_id])

    async def _change(self, order: int, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        tags = tuple(sorted(tag_ids))
        change = self._gateway.add_tags if order == _ADD else self._gateway.remove_tags

        async def send(ids: list[str]) -> dict[str, Any]:
            try:
                await change(kind, ids, tags)
            except StashGone as exc:
                if not set(exc.ids) & set(ids) or set(exc.ids) & set(tags):
                    raise
                lost = {i: StashGone(f"{kind} {i} is not in Stash (any more)", ids=(i,)) for i in exc.ids}
                return {i: lost.get(i) for i in ids}
            return dict.fromkeys(ids)

        await self._share((order, kind, tags), ids, send)

    async def _share(
        self, key: _Key, ids: Collection[str], send: Callable[[list[str]], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Wait until the group is sent; returns what came of these ids, or raises what came of one of them."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        group = self._groups.setdefault(key, _Group(send))
        group.waiting.append((tuple(ids), future))
        self._look_round()
        return await future

    # --- sending ----------------------------------------------------------------------------------------------

    def _look_round(self) -> None:
        """Send the group whose turn it is if everybody waits; else see to it that nobody waits for ever."""
        if self._sending is not None or not self._groups:
            return
        loop = asyncio.get_running_loop()
        if sum(len(g.waiting) for g in self._groups.values()) >= self._taking_part:
            self._send_next()
        elif self._alarm is None:
            self._alarm = loop.call_later(self._linger_s, self._send_next)

    def _send_next(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._groups and self._sending is None:
            self._sending = asyncio.ensure_future(self._send(self._groups.pop(min(self._groups))))
            self._sending.add_done_callback(self._sent)

    def _sent(self, _: asyncio.Task[None]) -> None:
        self._sending = None
        self._look_round()

    async def _send(self, group: _Group) -> None:
        try:
            await self._ask(group)
        finally:
            group.give_up()

    async def _ask(self, group: _Group) -> None:
        ids = list(dict.fromkeys(i for some, _ in group.waiting for i in some))
        try:
            found = await group.send(ids)
        except StashRefused as exc:
            if len(group.waiting) == 1:
                _fail(group.waiting[0][1], exc)
                return
            for some, future in group.waiting:  # whose fault it is shows when each is asked alone
                await self._send(_Group(group.send, [(some, future)]))
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - it belongs to those who wait
            for _, future in group.waiting:
                _fail(future, exc)
        else:
            for some, future in group.waiting:
                error = next((e for i in some if isinstance(e := found[i], Exception)), None)
                if error is not None:
                    _fail(future, error)
                elif not future.done():
                    future.set_result({i: found[i] for i in some})


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
