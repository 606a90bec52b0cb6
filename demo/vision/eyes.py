"""What the model behind the embedded vision server sees, with the mistakes it is told to make."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from demo.vision.wire import Asked, Sight, asks_for_colours, picture_hash, plain_colour, vocabulary

See = Callable[[bytes], Collection[str]]
"""Names of what a JPEG shows."""


class Eyes:
    """Looks at each picture once and remembers.

    Args:
        see: names of what a picture shows.
        miss_rate, false_alarm_rate: share of names left out, and of names made up.
        seed: the same seed makes the same mistakes with the same picture.
    """

    def __init__(self, see: See, *, miss_rate: float, false_alarm_rate: float, seed: int) -> None:
        self._see = see
        self._miss, self._alarm, self._seed = miss_rate, false_alarm_rate, seed
        self._remembered: dict[str, Sight] = {}

    def look(self, asked: Asked) -> Sight:
        """What the model sees in the pictures of a question."""
        if asks_for_colours(asked.text):
            colours = [plain_colour(p) for p in asked.pictures]
            return Sight(tuple(c for c in colours if c))
        if not asked.pictures:
            return Sight(())
        sights = self.look_at_each(asked)
        sureness = {name: p for sight in reversed(sights) for name, p in sight.sureness.items()}
        return Sight(tuple(dict.fromkeys(n for sight in sights for n in sight.names)), sureness)

    def look_at_each(self, asked: Asked) -> list[Sight]:
        """What the model sees in each of the pictures, whatever the others show."""
        sights = []
        for jpeg in asked.pictures:
            picture = picture_hash(jpeg)
            if picture not in self._remembered:
                self._remembered[picture] = self._noisy(tuple(self._see(jpeg)), picture, asked)
            sights.append(self._remembered[picture])
        return sights

    def _noisy(self, true: Sequence[str], picture: str, asked: Asked) -> Sight:
        """Leave names out and make names up, always the same for a picture; what is made up is less sure."""
        if not self._miss and not self._alarm:
            return Sight(tuple(true))
        dice = random.Random(f"{self._seed}:{picture}")
        kept = {n: dice.uniform(0.8, 0.99) for n in true if dice.random() >= self._miss}
        others = [n for n in vocabulary(asked) if n not in true]
        made_up = {n: dice.uniform(0.4, 0.75) for n in others if dice.random() < self._alarm}
        return Sight((*kept, *made_up), {**kept, **made_up})
