"""Pure helpers with two callers or more: lengths of time, path mapping, names for people. Imports nothing of ours."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

_LENGTH = re.compile(
    r"^\s*(?:(?P<percent>\d+(?:\.\d+)?)\s*%"
    r"|(?:(?P<h>\d+(?:\.\d+)?)\s*h)?\s*(?:(?P<m>\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(?P<s>\d+(?:\.\d+)?)\s*(?:s|sec)?)?)\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Length:
    """A length of time, absolute or as a share of a whole: 12, "12s", "1m30s", "5%"."""

    seconds: float = 0.0
    percent: float | None = None

    @classmethod
    def parse(cls, value: object) -> Length:
        """Read seconds as a number, or text such as "12s", "1m30s" or "5%".

        Raises:
            ValueError: it is neither, or negative, or more than 100 %.
        """
        if isinstance(value, Length):
            return value
        problem = "a length is a number of seconds, or text such as 12s, 1m30s or 5%"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(problem)
        if isinstance(value, int | float):
            if not 0 <= value < float("inf"):
                raise ValueError("a length cannot be negative or endless")
            return cls(seconds=float(value))
        match = _LENGTH.match(value)
        if not value.strip() or match is None or not any(match.groupdict().values()):
            raise ValueError(problem)
        if match["percent"] is not None:
            percent = float(match["percent"])
            if percent > 100:
                raise ValueError("a share cannot be more than 100%")
            return cls(percent=percent)
        return cls(seconds=float(match["h"] or 0) * 3600 + float(match["m"] or 0) * 60 + float(match["s"] or 0))

    def ms(self, whole_ms: int) -> int:
        """The length in milliseconds, of a whole that lasts `whole_ms`."""
        if self.percent is not None:
            return round(whole_ms * self.percent / 100)
        return round(self.seconds * 1000)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else f"{self.seconds:g}s"


def map_path(path: str, mutation: Mapping[str, str]) -> str:
    """Replace the longest matching leading folder of `path` as Stash names it by the one this machine knows.

    Folders match whole (`/data` matches `/data/a.mp4`, not `/database/a.mp4`); a key may end in a separator
    or not. Windows paths match whatever their case and slashes.
    """
    best: tuple[int, str] | None = None
    for theirs, ours in mutation.items():
        rest = _below(path, theirs)
        if rest is not None and (best is None or len(theirs) > best[0]):
            separator = "\\" if "\\" in ours and "/" not in ours else "/"
            joined = ours.rstrip("/\\") + separator + separator.join(rest) if rest else ours
            best = (len(theirs), joined)
    return best[1] if best else path


def _below(path: str, folder: str) -> tuple[str, ...] | None:
    windows = bool(re.match(r"^(?:[A-Za-z]:|\\\\)", path))
    kind = PureWindowsPath if windows else PurePosixPath
    try:
        return kind(path).relative_to(kind(folder)).parts
    except ValueError:
        return None


def clock_text(at_ms: int) -> str:
    """A time for people: 0:34, 12:05, 1:02:03."""
    seconds = max(0, at_ms) // 1000
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def count_text(count: int, noun: str) -> str:
    """'1 scene', '2 scenes', '3 boxes', '4 galleries', '5 days'."""
    if count == 1:
        return f"1 {noun}"
    if noun == "medium":
        return f"{count:,} media"
    plural = (
        noun[:-1] + "ies"
        if re.search("[^aeiou]y$", noun)
        else noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")
    )
    return f"{count:,} {plural}"


def control_character(text: str) -> str | None:
    r"""The first character that ends a line or prints nothing, spelled out: '\n', '\x1b'; None: there is none."""
    return next((ascii(c)[1:-1] for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)


def duration_text(seconds: float) -> str:
    """A duration for people: '45 s', '12 min', '3 h 5 min'."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def first_error(group: BaseExceptionGroup[BaseException], prefer: type[BaseException]) -> BaseException:
    """The first error in a group (of groups) that is a `prefer`; else the first of any kind."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    return next((e for e in leaves if isinstance(e, prefer)), leaves[0])


def sentences(*texts: str) -> str:
    """Join texts that may or may not be whole sentences; empty ones are left out."""
    return " ".join(text if text.endswith((".", "!", "?")) else text + "." for text in texts if text)
