"""Images of any mode as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB, see :func:`simmim_pl.data.files.decode.decode`; RGB is returned as it is.

    Raises:
        ValueError: grayscale of unknown range.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64)
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        scale = next((top for top in ranges if grey.min() >= 0 and grey.max() <= top), None)
        if scale is None:
            raise ValueError(f"grayscale from {grey.min():g} to {grey.max():g}, of unknown range")
        return Image.fromarray(np.rint(grey * (255 / scale)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies, also what is RGB
