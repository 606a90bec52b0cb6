"""Mutants that no test can notice, each with the reason: `bench.mutation` leaves them out of its count."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""(module, source line, change) → why it changes nothing that anybody could see."""
