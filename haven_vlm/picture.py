"""The picture that is sent: small, a plain JPEG, and a tiny grey copy to compare it by. Videos and stills share it."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from haven_vlm.facts import Frame
from haven_vlm.framing import Projection

RECIPE = 1
"""Version of all that is done to a picture; a change of it makes old answers another picture's."""

LUMA_SIDE = 32
"""Side of the small grey picture by which frames are compared."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """All that shapes the picture that is sent."""

    max_side_px: int = 640
    """The longer side; smaller pictures are never enlarged."""
    jpeg_quality: int = 85
    crop_bars: bool = True
    """Cut off black bars of a video on all four sides."""
    projection: Projection = "auto"
    """Of VR videos show one eye's centre; `flat`: of none; `vr`: this is one."""

    @property
    def key(self) -> str:
        """Text that is the same exactly when pictures are made in the same way; part of the ledger's key."""
        crop = "crop" if self.crop_bars else "whole"
        return f"jpeg{RECIPE}:{self.max_side_px}:q{self.jpeg_quality}:{crop}:{self.projection}"


def jpeg_from_image(image: Image.Image, preparation: Preparation) -> bytes:
    """A baseline JPEG of an RGB or grey image, without any metadata."""
    plain = image.copy()
    plain.info = {}  # Pillow would carry comments and XMP of a still over
    out = io.BytesIO()
    plain.save(out, "JPEG", quality=preparation.jpeg_quality)
    return out.getvalue()


def luma_from_image(image: Image.Image) -> bytes:
    """32 × 32 grey values (full range), row by row."""
    return image.convert("L").resize((LUMA_SIDE, LUMA_SIDE), Image.Resampling.BOX).tobytes()


def frame_from_image(
    image: Image.Image, preparation: Preparation, *, at_ms: int, shown_ms: int, corrupt: bool = False
) -> Frame:
    """An upright RGB image of the final size as a `Frame`."""
    return Frame(
        at_ms=at_ms,
        shown_ms=shown_ms,
        jpeg=jpeg_from_image(image, preparation),
        width_px=image.width,
        height_px=image.height,
        luma=luma_from_image(image),
        corrupt=corrupt,
    )


def fitted(width: float, height: float, max_side_px: int) -> tuple[int, int]:
    """The size in whole pixels that keeps the shape, with the longer side at most `max_side_px`; never larger."""
    scale = min(1.0, max_side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
