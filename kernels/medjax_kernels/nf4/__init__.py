"""Matrices in QLoRA's 4-bit NormalFloat, and products with them that never dequantize the whole."""

from medjax_kernels.nf4.api import SUPPORT, dequantize, matmul, quantize
from medjax_kernels.nf4.weights import NF4, from_bitsandbytes

__all__ = ["NF4", "SUPPORT", "dequantize", "from_bitsandbytes", "matmul", "quantize"]
