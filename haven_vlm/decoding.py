"""The picture on screen at a wanted time, exactly, for the least decoding.

One pass in ascending order. Compressed packets are held back; at each keyframe not after the wanted time what is
held is dropped undecoded. When everything up to the wanted time has been read, the held packets are decoded:
pictures that no other picture refers to are skipped unless they are the wanted one. That keeps pictures exact and
costs 0.55 (HEVC) to 0.75 (AV1) of decoding all of them; skipping more (B-frames, loop filters) would alter them.
Where the index or the measured cost says that a seek is cheaper than reading on, it seeks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.frame import VideoFrame

from haven_vlm.container import PacketFeed, Piece

HELD_BYTES = 24 * 1024 * 1024
"""Most that packets held back may take; more is decoded before it is known whether it is needed."""
LAST_PICTURE_S = Fraction(1)
"""How long the last picture of a file stays on screen, unless the container says that it is longer."""
MAX_STEPS_BACK = 6
"""How often one wanted time may send the reader further back before it is given up."""
MAX_GIVEN_UP = 3
"""Wanted times in a row that were given up, after which going back is no longer tried in this file."""
MAX_LEAD = 2
"""Most keyframes that decoding begins before the one that should do."""
RESCUES_TO_LEARN = 2
"""Pictures that only a lead could give, after which the file always gets one."""
MAX_PACKETS_TO_FIRST = 2000
"""Packets that may fail to give a picture at the beginning of a file."""
MAX_PACKETS_WITHOUT_PICTURE = 128
"""Packets beyond the wanted time that may be decoded without a picture coming out."""
_REORDERED = 16
"""Most pictures by which decoding order and order on screen differ, in the formats we know."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A decoded picture and when it is shown."""

    pts: int
    """Ticks of the stream."""
    frame: VideoFrame
    corrupt: bool


class PictureFinder:
    """Finds pictures by time in the packets of a feed. Blocking; one thread at a time."""

    def __init__(self, feed: PacketFeed, *, step: Callable[[], None]) -> None:
        """
        Args:
            step: called before every packet; a sign of life. What it raises ends the reading.
        """
        self.bad = 0
        """Pictures that could not be decoded or were flagged as damaged."""
        self._feed = feed
        self._step = step
        self._decoder = feed.stream.codec_context
        self._held: deque[Piece] = deque()
        self._held_bytes = 0
        self._shown: Shown | None = None
        self._alone: tuple[Shown | None, int] = None, 0
        """The picture the decoder was emptied for, and when the next one is shown as far as is known."""
        self._ready: deque[Shown] = deque()
        self._fed: dict[int, bool] = {}
        """Pictures given to the decoder that have not come out: when they are shown → whether it may not skip them."""
        self._counted = 0
        self._wanted: Sequence[int] = ()
        self._gap = max(2 * feed.frame_ticks, self._ticks(Fraction(1, 4)))
        self._careful = False
        self._given_up = 0
        self._lead = self._usual_lead = 0
        """Keyframes before the last one that decoding has to begin with, for this picture and for any."""
        self._rescued = 0
        self._chain: int | None = None
        """Time of the keyframe that decoding goes on from; None: not known."""
        self._fresh_key: int | None = None
        """The same while nothing behind that keyframe has been dropped or decoded alone."""
        self._restart(in_chain=True)

    def close(self) -> None:
        """Let go of packets and pictures. May be called twice; nothing can be found any more."""
        self._forget()
        self._shown = None
        self._alone = None, 0

    def expect(self, limits: Sequence[int]) -> None:
        """Say which times will be asked for, ascending, so that nothing is skipped that one of them needs."""
        self._wanted = limits

    def first(self) -> Shown | None:
        """The first picture that can be decoded, from where the file begins."""
        for _ in range(MAX_PACKETS_TO_FIRST):
            piece = self._read()
            found = self._drained() if piece is None else self._decoded(piece, whole=True)
            self._ready.extend(found)
            if self._ready:
                return self._ready[0]
            if piece is None:
                break
        return None

    def at(self, limit: int, *, snap: int = 0) -> Shown | None:
        """The picture on screen at `limit`: the last one shown at or before it; None where there is none.

        Args:
            limit: ticks of the stream.
            snap: a keyframe at most this many ticks away may stand in.
        """
        if snap and (key := self._indexed_key_near(limit, snap)) is not None:
            limit = key
        last, until = self._alone
        if last is not None and last is self._shown and last.pts <= limit < until:
            return last
        self._lead = self._usual_lead
        for steps in range(MAX_STEPS_BACK):
            if steps == 0:
                self._approach(limit)
            elif not self._step_back(limit, steps):
                break
            found = self._gathered(limit, snap)
            if found is not None:
                self._given_up = 0
                self._learn(steps)
                return found
            if self._is_over or self._given_up >= MAX_GIVEN_UP:
                break
        self._given_up += not self._is_over
        return None

    def _learn(self, steps: int) -> None:
        """A file of which keyframes alone give no picture (it is renewed in stripes) needs a lead everywhere."""
        self._rescued += steps > 0 and self._lead > self._usual_lead
        if self._rescued >= RESCUES_TO_LEARN:
            self._usual_lead, self._rescued = self._lead, 0

    def keyframe(self, ticks: int) -> Shown | None:
        """The picture of the keyframe at or before `ticks` (roughly), or of the next one, decoded by itself.

        None at the end of the file. A keyframe that cannot be decoded is counted, and the next one taken.
        """
        self.go_to(ticks)
        return self._next_key_alone(None)

    def next_keyframe(self, not_before: int) -> Shown | None:
        """The picture of the next keyframe that is shown at or after `not_before`, decoded by itself."""
        ahead = self._feed.keyframe_after(not_before - 1)
        if ahead is not None and self._feed.is_worth_a_seek(ahead):
            self._feed.seek(ahead)
        return self._next_key_alone(not_before)

    def _next_key_alone(self, not_before: int | None) -> Shown | None:
        self._forget()
        self._shown, self._chain = None, None
        while (piece := self._read()) is not None:
            at = piece.pts if piece.pts is not None else piece.order
            if not piece.is_key or (not_before is not None and at is not None and at < not_before):
                continue
            found = [*self._decoded(piece, whole=True), *self._drained()]
            if found:
                return found[0]
            self.bad += 1
        return None

    def end(self, start: int) -> int:
        """When the last picture goes, found by reading on from `start` to the end; ticks of the stream."""
        self.go_to(start)
        end = start
        while (piece := self._read()) is not None:
            shown = piece.pts if piece.pts is not None else piece.order
            if shown is not None:
                end = max(end, shown + (piece.packet.duration or self._feed.frame_ticks))
        self.go_to(start)
        return end

    def go_to(self, ticks: int) -> None:
        """Make the keyframe at or before `ticks` the next to be read, roughly."""
        at_start = not self._feed.can_seek or ticks <= (self._feed.start or 0)
        self._feed.seek(ticks)
        self._restart(in_chain=at_start or not self._feed.can_seek)

    # --- where to go ---

    def _approach(self, limit: int) -> None:
        while self._ready and self._ready[0].pts <= limit:
            self._shown = self._ready.popleft()
        shown_too_late = self._shown is not None and self._shown.pts > limit
        passed = self._shown is None and bool(self._ready)  # what is ready is later than what is wanted
        too_far = self._chain is not None and self._chain > limit
        nothing = self._shown is None and not self._held and not self._ready
        gone_by = nothing and self._feed.reached is not None and self._feed.reached > limit
        is_behind = shown_too_late or passed or too_far or gone_by
        if is_behind or (not self._ready and self._may_go_on and self._feed.is_worth_a_seek(limit)):
            self.go_to(limit - self._lead * self._feed.longest_gop)

    @property
    def _may_go_on(self) -> bool:
        """Whether there can be anything behind the place that was reached."""
        return not self._at_end or self._feed.index_is_complete or self._feed.gave_up

    def _step_back(self, limit: int, steps: int) -> bool:
        """Begin at an earlier keyframe than last time; False when there is none."""
        start = self._feed.start or 0
        if self._from_start or (self._in_chain and self._chain is not None and self._chain <= start):
            return False
        if self._in_chain and self._chain is not None:
            self._lead = min(self._lead + 1, MAX_LEAD)
        earlier: int | None = limit - self._feed.longest_gop * 2**steps
        if self._feed.index_is_complete and self._chain is not None:
            earlier = self._feed.keyframe_at_or_before(min(limit, self._chain - 1))
        self.go_to(start if earlier is None else max(start, earlier))
        return True

    def _indexed_key_near(self, limit: int, snap: int) -> int | None:
        near = [self._feed.keyframe_at_or_before(limit), self._feed.keyframe_after(limit)]
        return min(
            (key for key in near if key is not None and abs(key - limit) <= snap),
            key=lambda key: abs(key - limit),
            default=None,
        )

    def _ends_here(self, after: int) -> bool:
        """Whether nothing that is wanted later needs what the decoder knows now."""
        position = bisect_right(self._wanted, after)
        if position == len(self._wanted):
            return True
        key = self._feed.keyframe_at_or_before(self._wanted[position])
        return key is not None and key > after

    # --- reading and decoding ---

    def _gathered(self, limit: int, snap: int, *, again: bool = False) -> Shown | None:
        """The picture at `limit`, from here on; None if reading has to begin earlier, or there is none."""
        self._is_over = False
        if not self._ready:
            self._hold_until(limit)
        wanted = None if self._feed.is_untimed else self._wanted_piece(limit)
        if wanted is None and not (self._feed.is_untimed and self._in_chain):
            return None
        if snap and wanted is not None and self._fresh_key is not None and limit - snap <= self._fresh_key <= limit:
            wanted = self._fresh_key
        if not self._ready and (self._shown is None or self._shown.pts != wanted):
            self._decode_until(limit, wanted)
        shown = self._shown
        if shown is not None and self._at_end and not self._ready and limit > shown.pts + self._tail:
            self._is_over = True
            return None
        if wanted is None or (shown is not None and shown.pts == wanted):
            return shown
        if not again and self._fed.get(wanted) is False:
            # a picture stays on screen for longer than was foreseen: decode it this time
            self._gap = max(self._gap, 2 * (limit - wanted))
            self.go_to(wanted)
            return self._gathered(limit, snap, again=True)
        if shown is None or wanted - shown.pts <= self._feed.frame_ticks * 3 // 2:
            return shown  # the two fields of a picture come in packets of their own, with two times
        if not self._careful:
            self._careful = True
            self.go_to(self._chain if self._chain is not None else self._feed.start or 0)
            return self._gathered(limit, snap, again=True)
        self.bad += 1
        return Shown(shown.pts, shown.frame, corrupt=True)  # what should be there is damaged

    def _wanted_piece(self, limit: int) -> int | None:
        times = [piece.pts for piece in self._held if piece.pts is not None and piece.pts <= limit]
        times += [pts for pts in self._fed if pts <= limit]
        if self._shown is not None:
            times.append(self._shown.pts)
        return max(times, default=None)

    def _hold_until(self, limit: int) -> None:
        """Read until no later packet can be shown at or before `limit`; drop what no picture up to then needs."""
        slack = _REORDERED * self._feed.frame_ticks
        self._drop_before_key(limit)
        last = self._held[-1] if self._held else None
        while last is None or not _is_past(last, limit, slack):
            piece = self._read()
            if piece is None:
                return
            last = piece
            is_way_in = piece.is_key and piece.pts is not None and piece.pts <= limit
            if is_way_in and (self._lead == 0 or not self._in_chain):
                self._begin_chain(piece.pts)
            elif not self._in_chain:
                self._shown = None  # what was on screen may have been followed by what is passed over here
                continue
            self._hold(piece)
            if is_way_in and self._lead:
                self._drop_before_key(limit)
            while self._held_bytes > HELD_BYTES:
                self._take_in(self._decoded(self._next_held(), whole=False), limit)

    def _drop_before_key(self, limit: int) -> None:
        """Drop held packets before the last keyframe that is shown at or before `limit`, or the lead it needs."""
        keys = [n for n, p in enumerate(self._held) if p.is_key and p.pts is not None and p.pts <= limit]
        if len(keys) > self._lead:
            kept = list(self._held)[keys[-1 - self._lead] :]
            self._begin_chain(kept[0].pts)
            for piece in kept:
                self._hold(piece)

    def _decode_until(self, limit: int, wanted: int | None) -> None:
        """Decode until the wanted picture has come out, or one that is shown later."""
        patience = MAX_PACKETS_WITHOUT_PICTURE
        while patience:
            piece = self._next_held() if self._held else self._read()
            if piece is None:
                self._take_in(self._drained(), limit)
                return
            is_timeless = piece.order is None and piece.pts is None
            patience -= is_timeless or _is_past(piece, limit, 0)
            self._take_in(self._decoded(piece, whole=self._is_needed(piece, limit, wanted)), limit)
            if self._ready or (wanted is not None and self._shown is not None and self._shown.pts >= wanted):
                return
            if piece.pts is not None and piece.pts == wanted and not self._careful and self._ends_here(limit):
                # what comes next begins with another keyframe: rather than decoding on until this picture
                # comes out in its turn, make the decoder hand over what it has
                self._take_in(self._drained(), limit)
                self._keep_from_key()
                return

    def _keep_from_key(self) -> None:
        """After the decoder was emptied: of the held packets only those from the next keyframe on are of use."""
        shown, kept = self._shown, list(self._held)
        first = next((n for n, p in enumerate(kept) if p.is_key), len(kept))
        self._forget()
        if shown is not None:
            later = (p.pts for p in kept if p.pts is not None and p.pts > shown.pts)
            self._alone = shown, min(later, default=shown.pts + 1)
        if first < len(kept):
            self._begin_chain(kept[first].pts)
            self._shown = shown
            for piece in kept[first:]:
                self._hold(piece)

    def _hold(self, piece: Piece) -> None:
        self._held.append(piece)
        self._held_bytes += piece.packet.size

    def _is_needed(self, piece: Piece, limit: int, wanted: int | None) -> bool:
        if piece.pts is None or wanted is None:
            return True
        if self._careful and wanted - self._gap <= piece.pts <= limit:
            return True
        if piece.pts <= limit:
            return piece.pts == wanted
        position = bisect_right(self._wanted, limit)
        position = bisect_right(self._wanted, piece.pts - 1, position)
        return position < len(self._wanted) and self._wanted[position] < piece.pts + self._gap

    def _take_in(self, found: Sequence[Shown], limit: int) -> None:
        for shown in found:
            if shown.pts > limit:
                self._ready.append(shown)
            elif self._shown is None or shown.pts >= self._shown.pts:
                self._shown = shown
                self._fed = {pts: whole for pts, whole in self._fed.items() if pts > shown.pts}

    def _decoded(self, piece: Piece, *, whole: bool) -> list[Shown]:
        self._step()
        if self._must_flush:
            self._flush()
            self._counted = piece.order or 0
        self._decoder.skip_frame = "DEFAULT" if whole else "NONREF"
        if piece.pts is not None:
            self._fed[piece.pts] = whole
        if piece.packet.duration and piece.pts is not None:
            self._tail = max(self._ticks(LAST_PICTURE_S), piece.packet.duration)
        try:
            frames = self._decoder.decode(piece.packet)
        except (av.error.FFmpegError, ValueError, OSError, MemoryError):
            self.bad += 1
            return []
        return [self._placed(frame, piece) for frame in frames]

    def _drained(self) -> list[Shown]:
        try:
            frames = self._decoder.decode(None)
        except (av.error.FFmpegError, ValueError, OSError, MemoryError):
            frames = []
        found = [self._placed(frame, None) for frame in frames]
        self._must_flush = True
        self._in_chain = False
        return found

    def _placed(self, frame: VideoFrame, piece: Piece | None) -> Shown:
        pts = self._counted if self._feed.is_untimed or frame.pts is None else frame.pts
        self._counted = pts + self._feed.frame_ticks
        self._fed.pop(pts, None)
        corrupt = frame.is_corrupt or (piece is not None and piece.packet.is_corrupt)
        self.bad += corrupt
        return Shown(pts, frame, corrupt)

    def _read(self) -> Piece | None:
        self._step()
        piece = self._feed.read()
        self._at_end = piece is None
        return piece

    def _next_held(self) -> Piece:
        piece = self._held.popleft()
        self._held_bytes -= piece.packet.size
        return piece

    # --- state ---

    def _begin_chain(self, pts: int | None) -> None:
        """From here on decoding starts anew: nothing before this keyframe is needed."""
        self._forget()
        self._in_chain = True
        self._chain = self._fresh_key = pts
        self._shown = None

    def _forget(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        self._ready.clear()
        self._fed.clear()
        self._in_chain = self._from_start = False
        self._must_flush = True
        self._fresh_key = None

    def _restart(self, *, in_chain: bool) -> None:
        """Forget all; `in_chain`: the file is read from its beginning, where no keyframe has to be waited for."""
        self._forget()
        self._shown = None
        self._chain = None
        self._in_chain = in_chain
        self._from_start = in_chain
        self._at_end = False
        self._is_over = False
        self._counted = 0
        self._tail = self._ticks(LAST_PICTURE_S)

    def _flush(self) -> None:
        self._decoder.flush_buffers()
        self._must_flush = False

    def _ticks(self, seconds: Fraction) -> int:
        return round(seconds / self._feed.time_base)


def _is_past(piece: Piece, limit: int, slack: int) -> bool:
    if piece.order is not None:
        return piece.order > limit + (slack if piece.pts is None else 0)
    return piece.pts is not None and piece.pts > limit + slack
