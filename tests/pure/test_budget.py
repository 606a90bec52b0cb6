"""What an endpoint may cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from haven_vlm.budget import GUESS, Budget
from haven_vlm.pool_ports import Usage
from haven_vlm.settings import EndpointSettings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def budget(now: datetime = NOON, **limits: Any) -> Budget:
    return Budget(EndpointSettings(base_url="http://there/v1", **limits), lambda: now)


def test_without_limits_there_is_room_for_any_number() -> None:
    free = budget(price_in=1.0)
    assert not free.is_limited
    assert free.room(Usage(10**9, 10**9, 10**9), under_way=5, unsent=5) is None
    assert free.exhausted(Usage(10**9)) is None


def test_requests_under_way_count_until_the_endpoint_counts_them() -> None:
    ten = budget(max_requests=10)
    assert ten.room(Usage(requests=7), under_way=3, unsent=0) == 3
    assert ten.room(Usage(requests=7), under_way=3, unsent=2) == 1
    assert ten.exhausted(Usage(requests=9)) is None
    spent = ten.exhausted(Usage(requests=10))
    assert spent is not None
    assert (spent.setting, str(spent), spent.daily) == ("max_requests", "10 of 10 requests", False)


def test_a_question_is_begun_only_if_the_largest_so_far_would_fit() -> None:
    some = budget(max_tokens=10_000)
    per_guess = GUESS.tokens_in + GUESS.tokens_out
    assert some.room(Usage(), under_way=0, unsent=0) == 10_000 // per_guess
    some.answered(900, 100)
    some.answered(400, 50)
    assert some.room(Usage(2, 1300, 150), under_way=3, unsent=0) == 5
    assert some.exhausted(Usage(9, 9000, 100)) is not None, "900 are left, and one takes 1,000"


def test_money_is_counted_by_both_prices() -> None:
    dear = budget(max_cost=0.5, price_in=2.0, price_out=10.0)
    used = Usage(100, 100_000, 20_000)
    assert dear.cost(used) == pytest.approx(0.4)
    dear.answered(5000, 1000)
    assert dear.room(used, under_way=0, unsent=0) == 5
    spent = dear.exhausted(Usage(100, 150_000, 20_000))
    assert spent is not None and str(spent) == "0.50 of 0.5"


def test_a_limit_of_the_run_is_named_before_one_of_the_day() -> None:
    both = budget(max_requests=5, max_requests_per_day=5)
    spent = both.exhausted(Usage(requests=5))
    assert spent is not None and spent.setting == "max_requests"


def test_money_without_a_price_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="max_cost_per_day needs a price"):
        budget(max_cost_per_day=1.0)


def test_what_others_used_on_the_day_counts_and_is_gone_with_it() -> None:
    moment = [NOON]
    daily = Budget(EndpointSettings(base_url="http://there/v1", max_requests_per_day=100), lambda: moment[0])
    day, amount = daily.unbooked(Usage(requests=10))
    assert (day, amount) == (date(2026, 3, 1), Usage(requests=10))
    daily.booked(day, amount, Usage(requests=95))
    assert daily.room(Usage(requests=12), under_way=0, unsent=0) == 3
    assert daily.unbooked(Usage(requests=12))[1] == Usage(requests=2)
    assert daily.exhausted(Usage(requests=15)) is not None
    moment[0] += timedelta(hours=12)
    daily.turn_page(Usage(requests=15))
    assert daily.exhausted(Usage(requests=15)) is None
    daily.booked(day, Usage(requests=5), Usage(requests=200))  # came too late: that day is over
    assert daily.room(Usage(requests=20), under_way=0, unsent=0) == 95
    assert daily.unbooked(Usage(requests=20)) == (date(2026, 3, 2), Usage(requests=5))


@pytest.mark.parametrize(("hour", "seconds"), [(0, 86400), (12, 43200), (23, 3600)])
def test_a_day_ends_at_midnight_of_this_machine(hour: int, seconds: int) -> None:
    zone = timezone(timedelta(hours=9))
    assert budget(datetime(2026, 12, 31, hour, tzinfo=zone), max_requests_per_day=1).back_in_s() == seconds


@given(
    st.integers(1, 50_000),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 300)), min_size=1, max_size=60),
    st.integers(1, 8),
)
def test_questions_of_at_most_the_usual_size_never_exceed_the_limit(
    most: int, sizes: list[tuple[int, int]], slots: int
) -> None:
    """Up to `slots` at once; once the largest question was seen, nothing is spent beyond the limit."""
    bounded = budget(max_tokens=most)
    bounded.answered(3000, 300)
    used, under_way = Usage(), 0
    waiting = list(sizes)
    while waiting or under_way:
        room = bounded.room(used, under_way=under_way, unsent=0) or 0
        if waiting and under_way < slots and room:
            under_way += 1
            continue
        if not under_way:
            break
        under_way -= 1
        size = waiting.pop() if waiting else (0, 0)
        used += Usage(1, *size)
    assert used.tokens_in + used.tokens_out <= most
