"""What one endpoint in the pool costs: its limits looked at and told, what it used entered into the book."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from haven_vlm.budget import Allowance, Budget
from haven_vlm.facts import Answer
from haven_vlm.pool_ports import SpendingBook, Usage, VisionEndpoint
from haven_vlm.settings import EndpointSettings
from haven_vlm_utility import duration_text

log = logging.getLogger(__name__)


class Spending:
    """The budget of an endpoint together with what the endpoint itself says it used."""

    def __init__(
        self,
        endpoint: VisionEndpoint,
        settings: EndpointSettings,
        *,
        now: Callable[[], datetime],
        wake_in: Callable[[float], None],
    ) -> None:
        self._endpoint = endpoint
        self._budget = Budget(settings, now)
        self._wake_in = wake_in
        self._told = ""
        self.is_limited = self._budget.is_limited
        self.is_daily = self._budget.is_daily
        """Whether what was used must be kept from run to run."""
        self.is_metered = self.is_limited or settings.price_in + settings.price_out > 0

    @property
    def spent(self) -> Allowance | None:
        """The limit that is used up, if one is."""
        return self._budget.exhausted(self._endpoint.used) if self.is_limited else None

    @property
    def back_in_s(self) -> float:
        """Seconds until limits for a day begin anew."""
        return self._budget.back_in_s()

    @property
    def cost(self) -> float:
        """What it has cost in this run, by the prices in the settings."""
        return self._budget.cost(self._endpoint.used)

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """All limits that are set."""
        return self._budget.allowances(self._endpoint.used)

    def room(self, *, under_way: int, unsent: int) -> int | None:
        """See `Budget.room`."""
        return self._budget.room(self._endpoint.used, under_way=under_way, unsent=unsent)

    def answered(self, answer: Answer) -> None:
        """A question took so much."""
        self._budget.answered(answer.tokens_in, answer.tokens_out)

    def look(self) -> None:
        """Say so, once, when a limit is used up; and look again when it no longer is."""
        self._budget.turn_page(self._endpoint.used)
        spent, name = self.spent, self._endpoint.name
        if spent is not None and self._told != spent.setting:
            log.warning("endpoint “%s” gets no more questions: %s", name, self.text(spent))
            if spent.daily:
                self._wake_in(self.back_in_s + 1.0)
        elif spent is None and self._told:
            log.info("endpoint “%s” may be asked again: %s is for a new day", name, self._told)
        self._told = spent.setting if spent is not None else ""

    def text(self, spent: Allowance) -> str:
        """Which limit is used up, and when there is something left again."""
        again = f"at midnight, in {duration_text(self.back_in_s)}" if spent.daily else "in the next run"
        return f"Its {spent.setting} is used up ({spent}); it is available again {again}."

    # --- the book ---------------------------------------------------------------------------------------------

    @property
    def is_unbooked(self) -> bool:
        """Something was used that is not in the book yet."""
        return self._budget.unbooked(self._endpoint.used)[1] != Usage()

    async def enter(self, book: SpendingBook) -> None:
        """Enter what was used into the book, and read there what others used.

        Raises:
            LedgerError: it could not be entered.
        """
        day, amount = self._budget.unbooked(self._endpoint.used)
        self._budget.booked(day, amount, await book.add(self._endpoint.name, day, amount))
