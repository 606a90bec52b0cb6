"""What of the environment other programs get to see that are started here; keys of endpoints stand in it."""

from __future__ import annotations

from collections.abc import Mapping

_KEPT = frozenset(
    {
        "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH",
        # Windows
        "USERPROFILE", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA",
        "PROGRAMDATA", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_ARCHITEW6432",
    }
)  # fmt: skip
_KEPT_BEGINNINGS = ("LC_", "CUDA_")


def bare(environ: Mapping[str, str]) -> dict[str, str]:
    """What every program needs to run here, and nothing else.

    A list of what is kept, not of what is left out: a person calls the variable with a key as they like.
    """
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in _KEPT or name.upper().startswith(_KEPT_BEGINNINGS)
    }
