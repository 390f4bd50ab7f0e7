"""A product of two tiles that gives the same on a GPU and in Triton's interpreter."""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """``total + left @ right`` with sums in float32.

    The interpreter multiplies the bit patterns of bfloat16 numbers as if they were integers, so that ``"interpreted"``
    makes them float32 first, which changes no number: tensor cores multiply without rounding as well.
    """
    if PRECISION == "interpreted":
        result = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    else:
        result = tl.dot(left, right, total, input_precision=PRECISION)
    return result
