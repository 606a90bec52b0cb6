from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import MakeRig, Rig, rig


@pytest.fixture(scope="session")
def clips() -> Path:
    """Generated clips, shared by all test processes of this user and machine."""
    folder = Path(tempfile.gettempdir()) / f"haven-vlm-clips-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture
def make_rig(tmp_path: Path, clips: Path) -> Iterator[MakeRig]:
    with ExitStack() as stack:

        def make(**stash_options: Any) -> Rig:
            return stack.enter_context(rig(tmp_path, clips, **stash_options))

        yield make


@pytest.fixture
def one(make_rig: MakeRig) -> Rig:
    """A rig with one Stash and the default settings."""
    return make_rig()
