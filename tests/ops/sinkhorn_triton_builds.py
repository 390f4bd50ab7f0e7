"""Compiles the kernel of Sinkhorn scaling for GPUs that need not be here; ``test_sinkhorn_triton.py`` runs this file.

It proves that types, layouts and tile sizes are valid and that registers and shared memory suffice, nothing about
results or speed. Prints, for each, registers a thread, bytes spilled, and bytes of shared memory.
"""

import re
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unimixer.ops.sinkhorn import triton_kernel
from unimixer.ops.sinkhorn.triton import tiles

knobs.nvidia.dump_ptxas_log = True
knobs.compilation.disable_line_info = True
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that one program may take, by capability."""


def build(program: Any, arch: int, types: dict[str, str], fixed: dict[str, Any], warps: int) -> None:
    names = [parameter.name for parameter in program.params]
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
    constants = {(place,): fixed[name] for place, name in enumerate(names) if name in fixed}
    with redirect_stdout(StringIO()) as said:  # what the assembler says
        built = triton.compile(
            ASTSource(fn=program, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", arch, 32),
            options={"num_warps": warps, "enable_fp_fusion": False},
        )
    assert built.metadata.shared <= SHARED_MEMORY[arch], (program.__name__, fixed)
    sums = re.findall(r"shfl\.sync\.bfly\.b32\s+(%\w+),", built.asm["ptx"])
    fused = " ".join(re.findall(r"fma\.rn\.f32 ([^;]*);", built.asm["ptx"]))
    assert sums
    assert not set(sums) & set(re.findall(r"%\w+", fused))  # else threads of a warp disagree about a sum
    usage = re.search(r"(\d+) bytes spill stores.*?Used (\d+) registers", said.getvalue(), re.DOTALL)
    assert usage, said.getvalue()
    sizes = " ".join(f"{name}={value}" for name, value in fixed.items())
    used = f"{usage[2]} registers, {usage[1]} spilled, {built.metadata.shared} shared"
    print(f"sm_{arch} {program.__name__} {sizes}: {used}")


if __name__ == "__main__":
    # the largest tiles have to fit the older architecture, which has less of everything; those of a symmetric plan need
    # fewer registers
    for arch, symmetric, size in ((80, True, 4), (80, False, 256), (90, False, 4)):
        types = dict.fromkeys(("scores", "plans", "targets", "spaces"), "*fp32") | {"tolerance": "fp32"}
        fixed = tiles(size)
        warps = fixed.pop("num_warps")
        build(triton_kernel.scale, arch, types, {"SYMMETRIC": symmetric, **fixed}, warps)
