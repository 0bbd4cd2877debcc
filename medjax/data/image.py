"""From an image as it was read to what the model sees: a square of pixels in [-1, 1].

The resize is that of google-research/big_vision (`tf.image.resize`, bilinear with antialiasing,
pp/ops_image.py), on which PaliGemma was trained, without TensorFlow. Pillow's is another one: it
rounds where TensorFlow cuts off.
"""

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from medjax.data.array_cache import ArrayCache
from medjax.data.example import Example


def resize(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes to a square with a triangle filter, widened when it shrinks; aspect is not kept.

    Follows TensorFlow's ScaleAndTranslate kernel to the last bit: float32 weights, rows before
    columns, sums from the first tap to the last, fractions cut off.
    """
    return resize_floats(image.astype(np.float32), size).astype(np.uint8)


def resize_floats(
    image: Float32[np.ndarray, "h w C"], size: int
) -> Float32[np.ndarray, "size size C"]:
    """As `resize`, with the fractions left."""
    rows = _resize_first_axis(image, size)
    columns = _resize_first_axis(np.ascontiguousarray(rows.transpose(1, 0, 2)), size)
    return columns.transpose(1, 0, 2)


def to_float(image: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Maps 0..255 to [-1, 1], as big_vision's `value_range(-1, 1)` does."""
    return image.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


class ImageTransform:
    """Maps an Example to its pixels at the model's size, remembering those used last.

    What it remembers is neither read nor resized again.

    Safe to call from several threads. A copy sent to another process starts with an empty cache.
    """

    def __init__(self, size: int, cache_bytes: int = 256 * 2**20):
        """`size` in pixels; `cache_bytes` bounds the memory for pixels, 0 turns the cache off."""
        self.size = size
        self.cache_bytes = cache_bytes
        self._cache = ArrayCache(cache_bytes)

    def __call__(self, example: Example) -> UInt8[np.ndarray, "size size 3"]:
        """The resized image, not to be written to: examples of one `image_key` share it."""
        if not example.image_key:
            return resize(example.image, self.size)
        return self._cache.get(example.image_key, lambda: resize(example.image, self.size))


def _resize_first_axis(
    image: Float32[np.ndarray, "length *rest"], size: int
) -> Float32[np.ndarray, "size *rest"]:
    first, weights = _taps(len(image), size)
    resized = np.zeros((size, *image.shape[1:]), np.float32)
    for tap, weight in enumerate(weights.T):
        # Past the edge the weight is zero.
        index = np.minimum(first + tap, len(image) - 1)
        resized += image[index] * weight.reshape(-1, *[1] * (image.ndim - 1))
    return resized


def _taps(
    length: int, size: int
) -> tuple[Int64[np.ndarray, "size"], Float32[np.ndarray, "size n"]]:
    """The first source pixel of every target pixel, and the weights of it and its successors."""
    one, half = np.float32(1), np.float32(0.5)
    scale = one / (np.float32(size) / np.float32(length))
    radius = max(scale, one)
    center = (np.arange(size, dtype=np.float32) + half) * scale
    first = np.maximum(np.ceil(center - radius - half), 0).astype(np.int64)
    last = np.minimum(np.floor(center + radius - half), length - 1).astype(np.int64)
    index = first[:, None] + np.arange((last - first).max() + 1)
    distance = np.abs((index.astype(np.float32) + half - center[:, None]) * (one / radius))
    weights = np.where(index <= last[:, None], np.maximum(one - distance, np.float32(0)), 0)
    total = np.zeros(size, np.float32)
    for weight in weights.T.astype(np.float32):
        total += weight
    return first, (weights * (one / total)[:, None]).astype(np.float32)
