"""What is burned into every image, as into MedPix's: a watermark, and a line at the bottom."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_WATERMARK = "MedPix"


def burn_in(
    grey: UInt8[np.ndarray, "height width"], footer: str, corner: str, *, transparent: bool | None
) -> Image.Image:
    """The image as it is published.

    Args:
      grey: what the scanner gave.
      footer: the line at the bottom.
      corner: "left" or "right": where the watermark is, at the top.
      transparent: None gives RGB; else RGBA, whose background is transparent if this says so.
    """
    height, width = grey.shape
    image = Image.fromarray(grey).convert("RGB")
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    font = ImageFont.load_default(max(9, round(min(height, width) * 0.055)))
    x = 0.02 * width if corner == "left" else 0.98 * width
    anchor = "la" if corner == "left" else "ra"
    draw.text((x, 0.015 * height), _WATERMARK, (255, 255, 255, 130), font, anchor)
    size = max(7, round(min(height, width) * 0.04))
    font = ImageFont.load_default(size)
    while draw.textlength(footer, font) > 0.97 * width and size > 4:
        size -= 1
        font = ImageFont.load_default(size)
    draw.rectangle((0, height - size - 4, width, height), (0, 0, 0, 255))
    draw.text((0.015 * width, height - 2), footer, (235, 235, 235, 255), font, "ld")
    image = Image.alpha_composite(image.convert("RGBA"), overlay)
    if transparent is None:
        return image.convert("RGB")
    if transparent:
        pixels = np.array(image)
        # White under the transparent parts: who forgets the alpha channel sees it.
        pixels[(pixels[..., :3].max(axis=-1) == 0)] = (255, 255, 255, 0)
        image = Image.fromarray(pixels)
    return image
