"""A Stash with a library for every test; clips are made once."""

from __future__ import annotations

from tests.e2e.conftest import clips, make_rig

__all__ = ["clips", "make_rig"]
