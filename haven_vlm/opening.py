"""Opening a video, by path or from Stash's stream, and saying in a sentence why it cannot be opened.

This is where PyAV's errors become ours: what keeps us from the file is `MediaUnreachable`, what is wrong with it
`MediaUnreadable`. No address and no header of a stream ever gets into a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from haven_vlm.errors import MediaError, MediaUnreachable, MediaUnreadable
from haven_vlm.location import PLAYLISTS, Location

MAX_PIXELS = 16384 * 8192
"""Larger pictures are taken for damage: a few wrong bits in a header must not cost gigabytes."""

_OF_STILLS = frozenset({"mjpeg", "png", "gif", "bmp", "webp", "tiff"})

_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles in odd encodings must not keep us from a video; PyAV 19 has no such option and takes them all."""

_NO_PLAYLIST = {"format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS))}
"""A playlist is turned away before a line of it is followed: FFmpeg would ask the addresses in it, and hand our key to
whoever is there."""

av.logging.set_level(None)  # FFmpeg's chatter would land on stderr, which Stash reads as our log


def open_container(location: Location, timeout: tuple[float, float]) -> InputContainer:
    options = {"protocol_whitelist": "file", **_NO_PLAYLIST}
    target = f"file:{location.target}"  # a name such as “concat:x” shall mean a file
    if location.is_stream:
        options |= {
            "protocol_whitelist": "http,https,tcp,tls",
            "headers": "".join(f"{name}: {value}\r\n" for name, value in location.headers.items()),
            "max_redirects": "0",  # headers that log in would go along to wherever a redirect points
            "icy": "0",
            "reconnect": "1",  # a connection that breaks in the middle is taken up again where it broke
            "reconnect_delay_max": "4",
        }
        target = location.target
    elif (refusal := _unreachable_path(location.target)) is not None:
        raise refusal
    # as `options` they would go to each stream as well, and older PyAV crashes on streams that turn up late
    with _translated(location):
        container: InputContainer = av.open(target, container_options=options, timeout=timeout, **_LENIENT)
        return container


def _unreachable_path(path: str) -> MediaError | None:
    try:
        size = os.stat(path).st_size
        if os.path.isdir(path):
            return MediaUnreachable(f"“{path}” is a folder, not a video file.")
        if size == 0:
            return MediaUnreadable(f"“{path}” is empty: the file has 0 bytes.")
    except (FileNotFoundError, NotADirectoryError):
        return MediaUnreachable(f"“{path}” is not there. If Stash sees it under another path, set path_mutation.")
    except PermissionError:
        return MediaUnreachable(f"“{path}” may not be read by this user: permission denied.")
    except (OSError, ValueError) as exc:
        return MediaUnreachable(f"“{path}” cannot be reached: {_reason(exc)}.")
    return None


@contextmanager
def _translated(location: Location) -> Iterator[None]:
    """Turn PyAV's errors on opening into ours; `from None`, as theirs hold the address of a stream."""
    name = location.title
    try:
        yield
    except av.error.HTTPUnauthorizedError:
        raise MediaUnreachable(f"{name} wants a login that we do not have (HTTP 401).") from None
    except av.error.HTTPForbiddenError:
        raise MediaUnreachable(f"{name} is not allowed to us (HTTP 403).") from None
    except av.error.HTTPNotFoundError:
        raise MediaUnreachable(f"{name} is not there (HTTP 404).") from None
    except (av.error.HTTPError, av.error.HTTPClientError) as exc:
        raise MediaUnreachable(f"{name} was refused: {_reason(exc)}.") from None
    except (av.error.ExitError, TimeoutError):
        raise MediaUnreachable(f"{name} did not answer in time.") from None
    except PermissionError:
        raise MediaUnreachable(f"{name} may not be read by this user: permission denied.") from None
    except OSError as exc:
        raise MediaUnreachable(f"{name} cannot be reached: {_reason(exc)}.") from None
    except (av.error.FFmpegError, ValueError, MemoryError):
        why = "" if location.is_stream else _what_it_is_instead(location.target)
        raise MediaUnreadable(f"{name} {why or 'is not a video, or its beginning is damaged'}.") from None


def _what_it_is_instead(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if head[4:8] == b"ftyp":
        return "is an MP4 whose index (moov) is missing or damaged: the recording or copy was cut off"
    if head.startswith((b"#EXTM3U", b"ffconcat")) or b"<MPD" in head:
        return "is a playlist, not a video"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "holds text, not a video"
    if not any(head):
        return "holds nothing but zeros: the download or copy was not finished"
    return ""


def first_picture_track(container: InputContainer, location: Location) -> VideoStream:
    name = location.title
    aside = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    tracks = [s for s in container.streams.video if not s.disposition & aside]
    if not tracks:
        if container.streams.video:
            raise MediaUnreadable(f"{name} has no video stream, only a cover picture.")
        has_sound = bool(container.streams.audio)
        raise MediaUnreadable(f"{name} has no video stream{', only sound' if has_sound else ''}.")
    tracks = [s for s in tracks if getattr(s, "codec_context", None) is not None]
    # some programs store a cover as an ordinary track; a film in these formats stands alone
    track = next((s for s in tracks if s.codec_context.name not in _OF_STILLS), tracks[0] if tracks else None)
    if track is None:
        raise MediaUnreadable(f"{name} is in a format that this installation of PyAV cannot decode.")
    return track


def _reason(exc: BaseException) -> str:
    """What the system says, without any file name."""
    return str(getattr(exc, "strerror", None) or type(exc).__name__).rstrip(".").lower()
