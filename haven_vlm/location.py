"""Where the bytes of a medium are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PLAYLISTS = frozenset({"hls", "dash", "concat", "concatf", "imf", "sdp", "rtsp"})
"""FFmpeg's names of formats that hold no pictures themselves and lead to other files: never opened as a video."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a video are: a path of this machine, or an http address with the headers it wants."""

    target: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_stream(self) -> bool:
        return self.target.startswith(("http://", "https://"))

    @property
    def title(self) -> str:
        """For the beginning of a sentence."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def label(self) -> str:
        """For messages: the path, or words that tell nothing of the address."""
        return "Stash's stream of the file" if self.is_stream else f"“{self.target}”"
