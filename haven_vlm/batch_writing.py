"""Writing to many media at once: each as carefully as alone, all of them in few requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from haven_vlm.applying import Applied, Applier
from haven_vlm.errors import BusyError, HavenError, StashError, StashUnauthorized
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired, WritePlan
from haven_vlm.stash_ports import StashCollections, StashGateway
from haven_vlm.together import Together
from haven_vlm_utility import first_error

T = TypeVar("T")


class BatchWriter:
    """Carries wishes out for whole batches of media; a fault of one medium is its own result.

    Raises, everywhere:
        StashUnauthorized, LedgerError: nothing can be written any more.
    """

    def __init__(self, gateway: StashCollections, journal: Journal) -> None:
        self._together = Together(gateway)
        # for the ports of the applier it is the gateway, and what it does not share it passes on
        self._applier = Applier(cast(StashGateway, self._together), journal, tag_by_tag=True)

    async def write(self, run_id: int, wanted: Sequence[Desired]) -> list[Applied | StashError | BusyError]:
        """Make each medium look as desired; results in the same order."""
        return await self._all(wanted, lambda desired: self._applier.apply(run_id, desired))

    async def preview(self, wanted: Sequence[Desired]) -> list[WritePlan | StashError | BusyError]:
        """What `write` would do, with nothing written."""
        return await self._all(wanted, self._applier.preview)

    async def _all(
        self, wanted: Sequence[Desired], work: Callable[[Desired], Awaitable[T]]
    ) -> list[T | StashError | BusyError]:
        async with self._together.taking_part(len(wanted)) as done:

            async def one(desired: Desired) -> T | StashError | BusyError:
                try:
                    return await work(desired)
                except StashUnauthorized:
                    raise
                except (StashError, BusyError) as exc:
                    return exc
                finally:
                    done()

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(desired)) for desired in wanted]
            except BaseExceptionGroup as errors:
                raise first_error(errors, HavenError) from None
        return [task.result() for task in tasks]
