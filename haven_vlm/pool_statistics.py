"""What the pool says of its endpoints: a snapshot as data, and a table for the log."""

from __future__ import annotations

from haven_vlm.pool_member import Member
from haven_vlm.pool_ports import EndpointStatistics, PoolStatistics

HEAD = (
    "endpoint", "model", "answers", "share", "weight", "p50 s", "p95 s", "at once", "tokens in/cached/out",
    "per second", "",
)  # fmt: skip
"""Columns of the table; the last has no name."""


def snapshot(member: Member) -> EndpointStatistics:
    """One endpoint's work so far."""
    condition, used = member.condition(), member.endpoint.used
    return EndpointStatistics(
        name=member.name,
        base_url=member.settings.base_url,
        model=member.model,
        state=condition.state,
        reason=condition.reason,
        until_s=condition.until_s,
        weight=member.weight,
        is_fallback=member.settings.is_fallback,
        limit=member.limit,
        in_flight=len(member.leases),
        answered=member.answered,
        failures={str(fault): count for fault, count in sorted(member.failures.items())},
        p50_s=member.latencies.percentile(0.5),
        p95_s=member.latencies.percentile(0.95),
        tokens_in=member.tokens_in,
        tokens_cached=member.tokens_cached,
        tokens_out=member.tokens_out,
        left_network=used.left_network,
        busy_s=member.worked_s,
        requests=used.requests,
        cost=member.spending.cost,
        limits={limit.setting: (limit.used, limit.most) for limit in member.spending.allowances},
    )


def table(statistics: PoolStatistics) -> str:
    """The work of each endpoint as text for the log: share against weight, speed, tokens, failures."""
    total = sum(e.answered for e in statistics.endpoints) or 1
    weights = sum(e.weight for e in statistics.endpoints if e.answered) or 1.0
    rows = [HEAD]
    for e in statistics.endpoints:
        failures = ", ".join(f"{count} × {fault}" for fault, count in e.failures.items())
        state = "" if e.state in ("ready", "unused") else e.state
        spent = ", ".join(f"{name} {used:,.4g} of {most:,.4g}" for name, (used, most) in e.limits.items())
        cost = f"cost {e.cost:.4f}" if e.cost else ""
        rows.append(
            (
                e.name,
                e.model,
                f"{e.answered:,}",
                f"{e.answered / total:.1%}",
                f"{e.weight / weights:.1%}" if e.answered else "–",
                f"{e.p50_s:.2f}",
                f"{e.p95_s:.2f}",
                str(e.limit),
                f"{e.tokens_in:,}/{e.tokens_cached:,}/{e.tokens_out:,}",
                "/".join(f"{n / (e.busy_s or 1):,.0f}" for n in (e.tokens_in, e.tokens_cached, e.tokens_out)),
                "; ".join(filter(None, (state, spent, cost, failures))),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
