"""Triton programs of UniMixing: a tile of rows, mixed inside blocks, is the right factor of the product between blocks.

In every program a tile of values is ``(BN, BB * PB)``: BN blocks, BB rows of the batch, and the b columns of a block,
rounded up to PB, a power of two. Sizes need not be multiples of tiles; what lies outside is read as zero.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from unimixer.ops.kernels.programs.product import product


@triton.jit
def locally_mixed(
    x, local, rows, blocks, num_rows, num_blocks, local_stride, WIDTH: tl.constexpr, BB: tl.constexpr, PB: tl.constexpr
):
    """Values ``x_n W_n`` of some blocks and rows, float32, computed anew wherever they are needed."""
    columns = tl.arange(0, PB)
    inside_x = (blocks < num_blocks)[:, None] & (rows < num_rows)[None, :]
    inside_w = (blocks < num_blocks)[:, None] & (columns < WIDTH)[None, :]
    x_at = x + rows[None, :].to(tl.int64) * (num_blocks * WIDTH) + blocks[:, None] * WIDTH
    w_at = local + blocks[:, None] * local_stride + columns[None, :]
    values = tl.zeros((blocks.shape[0], BB, PB), tl.float32)
    for i in tl.static_range(WIDTH):
        x_i = tl.load(x_at + i, inside_x, 0.0).to(tl.float32)
        w_i = tl.load(w_at + i * WIDTH, inside_w, 0.0).to(tl.float32)
        values += x_i[:, :, None] * w_i[:, None, :]
    return tl.reshape(values, (blocks.shape[0], BB * PB))


@triton.jit
def places(rows, blocks, num_rows, num_blocks, WIDTH: tl.constexpr, PB: tl.constexpr):
    """Where a tile ``(blocks, rows, columns)`` lies in a ``(B, L)`` tensor, and which of it exists."""
    columns = tl.arange(0, PB)
    offsets = rows[None, :, None].to(tl.int64) * (num_blocks * WIDTH) + blocks[:, None, None] * WIDTH
    inside = (blocks < num_blocks)[:, None, None] & (rows < num_rows)[None, :, None]
    return offsets + columns[None, None, :], inside & (columns < WIDTH)[None, None, :]


@triton.jit
def between(global_, outs, blocks, num_blocks):
    """A tile of the global matrix."""
    inside = (outs < num_blocks)[:, None] & (blocks < num_blocks)[None, :]
    return tl.load(global_ + outs[:, None] * num_blocks + blocks[None, :], inside, 0.0)


@triton.jit
def forward(
    x,
    global_,
    local,
    out,
    num_rows,
    num_blocks,
    local_stride,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the output: ``sum_n G[m, n] (x_n W_n)``; neighbours share rows, so that x stays in the cache."""
    tiles = tl.cdiv(num_blocks, BM)
    rows = tl.program_id(0) // tiles * BB + tl.arange(0, BB)
    outs = tl.program_id(0) % tiles * BM + tl.arange(0, BM)
    total = tl.zeros((BM, BB * PB), tl.float32)
    for first in range(0, num_blocks, BN):
        blocks = first + tl.arange(0, BN)
        values = locally_mixed(x, local, rows, blocks, num_rows, num_blocks, local_stride, WIDTH, BB, PB)
        weights = between(global_, outs, blocks, num_blocks)
        total = product(weights, values.to(weights.dtype), total, PRECISION)
    offsets, inside = places(rows, outs, num_rows, num_blocks, WIDTH, PB)
    tl.store(out + offsets, tl.reshape(total, (BM, BB, PB)).to(out.dtype.element_ty), inside)


@triton.jit
def backward_x(
    grad,
    x,
    global_,
    local,
    grad_x,
    grad_local,
    num_rows,
    num_blocks,
    local_stride,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of ``dH = G^T dO``, hence ``dx_n = dH_n W_n^T`` and this tile's share of ``x_n^T dH_n``."""
    tiles = tl.cdiv(num_blocks, BN)
    tile_of_rows = tl.program_id(0) // tiles
    rows = tile_of_rows * BB + tl.arange(0, BB)
    blocks = tl.program_id(0) % tiles * BN + tl.arange(0, BN)
    total = tl.zeros((BN, BB * PB), tl.float32)
    for first in range(0, num_blocks, BM):
        outs = first + tl.arange(0, BM)
        offsets, inside = places(rows, outs, num_rows, num_blocks, WIDTH, PB)
        moved = tl.reshape(tl.load(grad + offsets, inside, 0.0), (BM, BB * PB))
        weights = tl.trans(between(global_, outs, blocks, num_blocks))
        total = product(weights, moved, total, PRECISION)
    values = tl.reshape(total, (BN, BB, PB))
    columns = tl.arange(0, PB)
    inside_x = (blocks < num_blocks)[:, None] & (rows < num_rows)[None, :]
    inside_w = (blocks < num_blocks)[:, None] & (columns < WIDTH)[None, :]
    x_at = rows[None, :].to(tl.int64) * (num_blocks * WIDTH) + blocks[:, None] * WIDTH
    own = (tile_of_rows.to(tl.int64) * num_blocks + blocks)[:, None] * (WIDTH * WIDTH) + columns[None, :]
    for i in tl.static_range(WIDTH):
        w_at = local + blocks[:, None] * local_stride + i * WIDTH + columns[None, :]
        w_i = tl.load(w_at, inside_w, 0.0).to(tl.float32)
        x_i = tl.load(x + x_at + i, inside_x, 0.0).to(tl.float32)
        grad_x_i = tl.sum(values * w_i[:, None, :], 2)
        tl.store(grad_x + x_at + i, grad_x_i.to(grad_x.dtype.element_ty), inside_x)
        tl.store(grad_local + own + i * WIDTH, tl.sum(values * x_i[:, :, None], 1), inside_w)


@triton.jit
def backward_global(
    grad,
    x,
    local,
    grad_global,
    num_rows,
    num_blocks,
    local_stride,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of ``dG[m, n] = sum dO_m h_n`` over every k-th tile of rows; the k shares are summed afterwards."""
    outs = tl.program_id(0) * BM + tl.arange(0, BM)
    blocks = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(tl.program_id(2) * BB, num_rows, tl.num_programs(2) * BB):
        rows = first + tl.arange(0, BB)
        values = locally_mixed(x, local, rows, blocks, num_rows, num_blocks, local_stride, WIDTH, BB, PB)
        offsets, inside = places(rows, outs, num_rows, num_blocks, WIDTH, PB)
        moved = tl.reshape(tl.load(grad + offsets, inside, 0.0), (BM, BB * PB))
        total = product(moved, tl.trans(values.to(moved.dtype)), total, PRECISION)
    inside = (outs < num_blocks)[:, None] & (blocks < num_blocks)[None, :]
    share = tl.program_id(2) * num_blocks + outs
    tl.store(grad_global + share[:, None] * num_blocks + blocks[None, :], total, inside)
