"""Triton programs of the per-token SwiGLU: both products and the gate in one, and the gate's gradient in one pass."""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from unimixer.ops.kernels.programs.product import product


@triton.jit
def forward(
    x,
    weight,
    bias,
    hidden,
    pre,
    num_rows,
    in_dim,
    hidden_dim,
    x_row,
    x_token,
    HAS_BIAS: tl.constexpr,
    SAVE: tl.constexpr,
    BB: tl.constexpr,
    BH: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of one token: rows times hidden units, with the two columns of weights that each of these needs."""
    token = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(hidden_dim, BH)
    rows = tl.program_id(0) // tiles * BB + tl.arange(0, BB)
    units = tl.program_id(0) % tiles * BH + tl.arange(0, BH)
    inside_rows, inside_units = rows < num_rows, units < hidden_dim
    up, gate = tl.zeros((BB, BH), tl.float32), tl.zeros((BB, BH), tl.float32)
    for first in range(0, in_dim, BK):
        inner = first + tl.arange(0, BK)
        x_at = x + token * x_token + rows[:, None].to(tl.int64) * x_row + inner[None, :]
        tile = tl.load(x_at, inside_rows[:, None] & (inner < in_dim)[None, :], 0.0)
        w_at = weight + (token * in_dim + inner[:, None]) * (2 * hidden_dim) + units[None, :]
        inside_w = (inner < in_dim)[:, None] & inside_units[None, :]
        up = product(tile, tl.load(w_at, inside_w, 0.0), up, PRECISION)
        gate = product(tile, tl.load(w_at + hidden_dim, inside_w, 0.0), gate, PRECISION)
    if HAS_BIAS:
        bias_at = bias + token * (2 * hidden_dim) + units
        up += tl.load(bias_at, inside_units, 0.0).to(tl.float32)[None, :]
        gate += tl.load(bias_at + hidden_dim, inside_units, 0.0).to(tl.float32)[None, :]
    inside = inside_rows[:, None] & inside_units[None, :]
    row = token * num_rows + rows[:, None]
    if SAVE:
        pre_at = pre + row * (2 * hidden_dim) + units[None, :]
        tl.store(pre_at, up.to(pre.dtype.element_ty), inside)
        tl.store(pre_at + hidden_dim, gate.to(pre.dtype.element_ty), inside)
    gated = up * gate * tl.sigmoid(gate)
    tl.store(hidden + row * hidden_dim + units[None, :], gated.to(hidden.dtype.element_ty), inside)


@triton.jit
def backward_gate(grad, pre, grad_pre, hidden_dim, BH: tl.constexpr):
    """Gradients of ``up * gate * sigmoid(gate)`` for a piece of one row, from the saved up and gate."""
    row = tl.program_id(0).to(tl.int64)
    units = tl.program_id(1) * BH + tl.arange(0, BH)
    inside = units < hidden_dim
    at = row * (2 * hidden_dim) + units
    moved = tl.load(grad + row * hidden_dim + units, inside, 0.0).to(tl.float32)
    up = tl.load(pre + at, inside, 0.0).to(tl.float32)
    gate = tl.load(pre + at + hidden_dim, inside, 0.0).to(tl.float32)
    sigma = tl.sigmoid(gate)
    grad_up = moved * gate * sigma
    grad_gate = moved * up * sigma * (1 + gate * (1 - sigma))
    tl.store(grad_pre + at, grad_up.to(grad_pre.dtype.element_ty), inside)
    tl.store(grad_pre + at + hidden_dim, grad_gate.to(grad_pre.dtype.element_ty), inside)
