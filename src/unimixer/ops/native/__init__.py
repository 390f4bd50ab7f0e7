"""Short operations between the products of a stack as C kernels, one pass over memory each; see the C files here.

The machine's own C compiler builds them at first use, in about a second, for this processor; the library is kept in the
user's cache folder. Where there is no compiler, off Linux, or with ``UNIMIXER_NATIVE=0``, :func:`library` is None and
torch's operations do the same work.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SOURCES = tuple(sorted(path for path in Path(__file__).parent.glob("*.[ch]") if path.stem != "scoring"))
"""Files of the kernels of training; ``scoring.c`` is a library of its own."""
SIGMOID = Path(__file__).with_name("sigmoid.h")
"""The one file that both libraries include."""
STRIP = 64
"""Samples of a strip, see ``strip.h``."""
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
FLAGS = ("-O3", "-march=native", *WIDE, "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


@cache
def library(sources: tuple[Path, ...] = SOURCES) -> ctypes.CDLL | None:
    """Return the kernels of some source files, built if need be; None where they cannot be built."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None or os.environ.get("UNIMIXER_NATIVE", "1") == "0":
        return None
    content = b"".join(source.read_bytes() for source in sources)
    key = hashlib.sha256(content + _processor() + " ".join((compiler, *FLAGS)).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME', '')}/.cache") / "unimixer"
    for folder in (home, Path(tempfile.gettempdir()) / f"unimixer-{os.getuid()}"):
        try:
            return ctypes.CDLL(str(_built(compiler, sources, folder / f"kernels-{key}.so")))
        except (OSError, subprocess.SubprocessError):  # a folder that cannot be written or run from; a failing compiler
            continue
    return None


def _built(compiler: str, sources: tuple[Path, ...], path: Path) -> Path:
    """Build the library at a path, unless it is there; of several processes the last one to finish replaces it."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        command = [compiler, *FLAGS, *(str(path) for path in sources if path.suffix == ".c"), "-o", str(part), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        part.replace(path)
    if {path.stat().st_uid, path.parent.stat().st_uid} != {os.getuid()}:
        raise PermissionError(f"{path} or its folder belongs to another user")
    return path


def _processor() -> bytes:
    """Return what the processor can do, so that a folder shared by machines holds a library for each kind."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()


class Norm(NamedTuple):
    """A norm over the width of a token: layer normalization if ``centred``, else by the root mean square."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool


NUMBERS = (torch.float32, torch.bfloat16)
"""What activations are read from and written to; they are computed in float32."""


def fits(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether the kernels can work on these tensors: contiguous, of one of the dtypes, in memory of a CPU.

    Subclasses, such as the fake tensors of a trace or those cut over processes, have no numbers at an address.
    """
    if library() is None:
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    return len({tensor.dtype for tensor in present}) <= 1 and all(
        _is_plain(tensor) and tensor.dtype in dtypes for tensor in present
    )


def _is_plain(tensor: Tensor) -> bool:
    owns_memory = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    return owns_memory and tensor.is_contiguous()


def activate(wide: Tensor, bias: Tensor | None, width: int) -> Tensor:
    """Add the bias and apply SwiGLU or GELU: ``(T, U, B)`` to ``(T, width, B)``."""
    tokens, gated, batch = wide.shape[0], wide.shape[1] != width, wide.shape[2]
    hidden = wide.new_empty(tokens, width, batch)
    _call(f"activate{_suffix(wide)}", wide, bias, hidden, tokens, width, batch, gated)
    return hidden


def activate_backward(wide: Tensor, bias: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden activations once more, the gradient of ``wide``, and that of the bias, ``(T, U)``."""
    (tokens, width, batch), gated = grad.shape, wide.shape[1] != grad.shape[1]
    hidden, to_wide = torch.empty_like(grad), torch.empty_like(wide)
    to_bias = wide.new_empty(wide.shape[:2], dtype=torch.float32)
    _call(f"activate_backward{_suffix(wide)}", wide, bias, grad, hidden, to_wide, to_bias, tokens, width, batch, gated)
    return hidden, to_wide, to_bias


def ffn(
    x: Tensor, weights: tuple[Tensor, Tensor | None, Tensor, Tensor | None], norm: Norm | None, keeps: bool = True
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the FFN of every token, normalized with its residual if there is a norm, and what backward needs."""
    (tokens, width, batch), (up, up_bias, down, down_bias) = x.shape, weights
    hidden, units = down.shape[1], up.shape[2]
    wide = x.new_empty(tokens, -(-batch // STRIP), units, STRIP) if keeps else None
    out, w, b, eps = torch.empty_like(x), None, None, 0.0
    sums = mean = scale = None
    if norm is not None:
        w, b, eps = norm.weight, norm.bias, float(norm.eps)
        sums, scale = torch.empty_like(x), x.new_empty(tokens, 1, batch)
        mean = torch.empty_like(scale) if norm.centred else None
    made, sizes = (wide, sums, out, mean, scale), (tokens, width, hidden, batch, units != hidden)
    _call("ffn", x, up, up_bias, down, down_bias, w, b, *made, *sizes, eps)
    return out, [wide, sums, mean, scale]


def ffn_backward(
    grad: Tensor, x: Tensor, up: Tensor, down: Tensor, norm_weight: Tensor | None, kept: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Return the gradients of x, the weights and biases of both layers, and the norm's weight and bias."""
    (tokens, width, batch), (hidden, units) = x.shape, (down.shape[1], up.shape[2])
    made = [torch.empty_like(x), torch.empty_like(up), x.new_empty(tokens, units), torch.empty_like(down)]
    made += [x.new_empty(tokens, width) for _ in range(3)]
    sizes = tokens, width, hidden, batch, units != hidden
    _call("ffn_backward", grad, x, up, down, norm_weight, *kept, *made, *sizes)
    return *made[:5], made[5].sum(0), made[6].sum(0)


def norm(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Normalize ``x + added``, ``(T, D, B)``; return the result, the mean if ``centred``, the reciprocal deviation."""
    tokens, width, batch = x.shape
    out, scale = torch.empty_like(x), x.new_empty(tokens, 1, batch)
    mean = torch.empty_like(scale) if centred else None
    _call("norm", x, added, weight, bias, out, mean, scale, tokens, width, batch, float(eps))
    return out, mean, scale


def norm_backward(
    grad: Tensor, x: Tensor, added: Tensor | None, weight: Tensor, mean: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of ``x`` and ``added``, that of the weight and that of the bias."""
    tokens, width, batch = x.shape
    to_x, to_weight, to_bias = torch.empty_like(x), x.new_empty(tokens, width), x.new_empty(tokens, width)
    _call("norm_backward", grad, x, added, weight, mean, scale, to_x, to_weight, to_bias, tokens, width, batch)
    return to_x, to_weight.sum(0), to_bias.sum(0)


def mixed_norm(
    x: Tensor, heads: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """:func:`norm` of x and what the matrices of its heads, or without them the rule of TokenMixer, mix of it."""
    tokens, width, batch = x.shape
    out, scale = torch.empty_like(x), x.new_empty(tokens, 1, batch)
    mean = torch.empty_like(scale) if centred else None
    num_heads = tokens if heads is None else len(heads)
    _call("mixed_norm", x, heads, weight, bias, out, mean, scale, tokens, width, batch, num_heads, float(eps))
    return out, mean, scale


def mixed_norm_backward(
    grad: Tensor, x: Tensor, heads: Tensor | None, weight: Tensor, mean: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return the gradients of x, of the matrices, of the weight and of the bias."""
    tokens, width, batch = x.shape
    strips, num_heads = -(-batch // STRIP), tokens if heads is None else len(heads)
    to_x, to_weight, to_bias = torch.empty_like(x), x.new_empty(strips, width), x.new_empty(strips, width)
    to_heads = None if heads is None else x.new_empty(strips, *heads.shape)
    made = to_x, to_heads, to_weight, to_bias
    _call("mixed_norm_backward", grad, x, heads, weight, mean, scale, *made, tokens, width, batch, num_heads)
    return to_x, None if to_heads is None else to_heads.sum(0), to_weight.sum(0), to_bias.sum(0)


def merges(indices: Sequence[Tensor], gradients: Sequence[Tensor], num_rows: int) -> bool:
    """Whether :func:`merge_rows` and :func:`merge_lookups` take these: rows of a table and lines that have 32 bits."""
    small = num_rows <= 2**32 and sum(map(len, gradients)) <= 2**32
    return small and fits(*gradients) and fits(*indices, dtypes=(torch.int64,))


def merge_rows(rows: Tensor, source: Tensor, gradients: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return the rows met, ``(U,)``, ascending, and the sums of their lines of ``gradients``, ``(U, width)``."""
    sizes = len(rows), gradients.shape[1], num_rows
    return _merged("merge_rows", (rows, source, gradients), len(rows), sizes)


def merge_lookups(
    rows: Tensor, bags: Tensor, offsets: Tensor, of_rows: Tensor, of_bags: Tensor, num_rows: int
) -> tuple[Tensor, Tensor]:
    """Return the same for single rows, each with a line of ``of_rows``, and bags, each with a line of ``of_bags``."""
    sizes = len(rows), len(of_bags), of_rows.shape[1], num_rows
    return _merged("merge_lookups", (rows, bags, offsets, of_rows, of_bags), len(rows) + len(bags), sizes)


def _merged(name: str, given: Sequence[Tensor], count: int, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    met, merged = given[0].new_empty(count), given[-1].new_empty(count, sizes[-2])
    num_met = _call(name, *given, met, merged, *sizes, result=c_long)
    if num_met < 0:
        raise MemoryError
    return met[:num_met], merged[:num_met]


def adam_rows(
    weight: Tensor,
    moments: tuple[Tensor, Tensor],
    rows: Tensor,
    gradient: Tensor,
    betas: tuple[float, float],
    rate: float,
    eps: float,
) -> None:
    """Move some rows of a weight and of its moments by Adam, with a rate and eps that hold the step's corrections."""
    _call("adam_rows", weight, *moments, rows, gradient, *gradient.shape, *map(float, (*betas, rate, eps)))


def _suffix(numbers: Tensor) -> str:
    """The end of the name of a kernel that reads and writes bfloat16."""
    return "_bf16" if numbers.dtype == torch.bfloat16 else ""


def _call(name: str, *arguments: Tensor | float | None, result: type[c_long] | None = None) -> Any:
    """Call a kernel on this process's threads; return its result, which is of a given type or none."""
    kernels = library()
    assert kernels is not None
    kernel = getattr(kernels, name)
    kernel.restype = result
    return kernel(*map(_passed, arguments), c_int(torch.get_num_threads()))


def _passed(value: Tensor | float | None) -> c_void_p | c_float | c_long:
    if value is None or isinstance(value, Tensor):
        return c_void_p(None if value is None else value.data_ptr())
    return c_float(value) if isinstance(value, float) else c_long(value)
