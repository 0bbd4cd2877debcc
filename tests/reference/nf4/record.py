#!/usr/bin/env python
"""Records what bitsandbytes makes of a few matrices; needs it and torch.

One file a matrix, with bitsandbytes' own names and shapes: `weight` [out, in] (bfloat16 as uint16),
and of its NF4 `codes`, `absmax`, `nested_absmax`, `nested_offset`, `nested_quant_map`, and the
matrix `dequantized` from them in float32, float16 and bfloat16 (as uint16).

The files here were made with bitsandbytes 0.50.2 and torch 2.13.0 on a CPU.
"""

import pathlib

import numpy as np
import torch
from bitsandbytes import functional

HERE = pathlib.Path(__file__).parent
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def normal(*shape: int) -> torch.Tensor:
    rng = np.random.default_rng(sum(shape))
    return torch.from_numpy(0.02 * rng.standard_normal(shape, dtype=np.float32))


def special() -> torch.Tensor:
    """Blocks of zeros, of one outlier, of equal numbers, of tiny ones, of every level itself."""
    weight = normal(8, 64)
    weight[0] = 0
    weight[1, 5] = -3
    weight[2] = -0.5
    weight[3] *= 1e-6
    weight[4] = functional.get_4bit_type("nf4", device="cpu").repeat(4)
    return weight


MATRICES = {
    "whole_blocks": normal(136, 128),  # two groups, the second not full
    "straddling_blocks": normal(48, 72).half(),  # 64 does not divide `in`
    "odd": normal(5, 23).bfloat16(),
    "special": special(),
}


def array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def record(weight: torch.Tensor) -> dict[str, np.ndarray]:
    codes, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    found = {
        "weight": array(weight),
        "codes": array(codes),
        "absmax": array(state.absmax),
        "nested_absmax": array(state.state2.absmax),
        "nested_offset": array(state.offset),
        "nested_quant_map": array(state.state2.code),
    }
    for name, dtype in DTYPES.items():
        state.dtype = dtype
        found[f"dequantized_{name}"] = array(functional.dequantize_4bit(codes, state))
    return found


if __name__ == "__main__":
    for name, weight in MATRICES.items():
        np.savez_compressed(HERE / f"{name}.npz", **record(weight))
