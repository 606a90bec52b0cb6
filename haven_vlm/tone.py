"""High dynamic range on an ordinary screen: one table of colours for each transfer function. Pure."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import ImageFilter

PQ, HLG = 16, 18
"""Transfer characteristics as ITU-T H.273 (table 3) numbers them."""

_REFERENCE_WHITE = 203.0  # cd/m², ITU-R BT.2408
_KNEE = 0.5  # of the reference white
_HLG_PEAK = 1000.0  # cd/m², the nominal display of ITU-R BT.2100


@lru_cache(maxsize=2)
def to_sdr(transfer: int) -> ImageFilter.Color3DLUT:
    """A table from BT.2020 with PQ or HLG to BT.709 as an ordinary screen shows it.

    Up to half of the reference white nothing changes. Above it the brightest component is rolled off and the others
    follow, so that colours keep their hue; the brighter, the more each is rolled off by itself, so that what is
    brighter than white becomes white. (Were hue kept there too, greys between two nodes would come out up to ten
    levels too dark: their neighbours in the table are colours, and those would be dim.)
    """
    size = 65  # the finest Pillow takes
    curve = [_linear(n / (size - 1), transfer) for n in range(size)]

    def mapped(red: float, green: float, blue: float) -> tuple[float, float, float]:
        r, g, b = (curve[round(c * (size - 1))] for c in (red, green, blue))
        if transfer == HLG:
            # BT.2100: the display's gamma acts on the luminance of the scene
            gain = _HLG_PEAK / _REFERENCE_WHITE * (0.2627 * r + 0.6780 * g + 0.0593 * b) ** 0.2
            r, g, b = r * gain, g * gain, b * gain
        # BT.2087: primaries of BT.2020 to those of BT.709, in light
        r, g, b = (
            max(0.0, 1.6605 * r - 0.5876 * g - 0.0728 * b),
            max(0.0, -0.1246 * r + 1.1329 * g - 0.0083 * b),
            max(0.0, -0.0182 * r - 0.1006 * g + 1.1187 * b),
        )
        peak = max(r, g, b)
        together = _rolled_off(peak) / peak if peak > 0 else 0.0
        alone = min(1.0, max(0.0, peak - _KNEE) / (1 - _KNEE))
        red, green, blue = (alone * _rolled_off(c) + (1 - alone) * together * c for c in (r, g, b))
        return _encoded(red), _encoded(green), _encoded(blue)

    return ImageFilter.Color3DLUT.generate(size, mapped)


def _linear(signal: float, transfer: int) -> float:
    """Light of a signal value: for PQ in units of the reference white, for HLG of the scene, 0 to 1."""
    if transfer == PQ:  # SMPTE ST 2084
        power = signal ** (1 / 78.84375)
        light = max(0.0, power - 0.8359375) / (18.8515625 - 18.6875 * power)
        return float(light ** (1 / 0.1593017578125)) * 10_000 / _REFERENCE_WHITE
    if signal <= 0.5:  # ARIB STD-B67
        return signal * signal / 3
    return (math.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12


def _rolled_off(light: float) -> float:
    if light <= _KNEE:
        return light
    return 1 - (1 - _KNEE) * math.exp((_KNEE - light) / (1 - _KNEE))


def _encoded(light: float) -> float:
    """The sRGB curve."""
    return 12.92 * light if light <= 0.0031308 else float(1.055 * light ** (1 / 2.4) - 0.055)
