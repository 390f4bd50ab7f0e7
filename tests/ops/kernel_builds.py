"""Compiles every kernel down to machine code for GPUs that need not be here; ``test_kernels.py`` runs this file.

It proves that types, layouts and tile sizes are valid and that registers and shared memory suffice, nothing about
results or speed. Prints, for each, registers a thread, bytes spilled, and bytes of shared memory.
"""

import re
import subprocess
import tempfile
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unimixer.ops.kernels.programs import sinkhorn, swiglu, unimixing
from unimixer.ops.kernels.sinkhorn import tiles as sinkhorn_tiles
from unimixer.ops.kernels.swiglu import tiles as swiglu_tiles
from unimixer.ops.kernels.unimixing import tiles

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that one program may take, by capability."""


def build(program: Any, arch: int, types: dict[str, str], fixed: dict[str, Any], warps: int = 4) -> None:
    names = [parameter.name for parameter in program.params]
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
    constants = {(place,): fixed[name] for place, name in enumerate(names) if name in fixed}
    built = triton.compile(
        ASTSource(fn=program, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps},
    )
    assert built.metadata.shared <= SHARED_MEMORY[arch], (program.__name__, fixed)
    registers, spilled = assembled(built.asm["ptx"], arch)
    sizes = " ".join(f"{name}={value}" for name, value in fixed.items())
    used = f"{registers} registers, {spilled} spilled, {built.metadata.shared} shared"
    print(f"sm_{arch} {program.__name__} {sizes}: {used}")


def assembled(ptx: str, arch: int) -> tuple[str, str]:
    """Registers a thread and bytes spilled, as the assembler says."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        name = f"sm_{arch}a" if arch == 90 else f"sm_{arch}"
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    found = re.search(r"(\d+) bytes spill stores.*?Used (\d+) registers", said, re.DOTALL)
    assert found, said
    return found[2], found[1]


def build_all(arch: int, dtype: str, precision: str) -> None:
    of_dtype = ("x", "global_", "local", "out", "grad", "grad_x", "weight", "bias", "hidden", "pre", "grad_pre")
    types = {**dict.fromkeys(of_dtype, dtype), "grad_local": "*fp32", "grad_global": "*fp32"}
    for num_blocks, block_size in ((256, 4), (17, 6)):
        fixed = {**tiles(num_blocks, block_size), "PRECISION": precision}
        for program in (unimixing.forward, unimixing.backward_x, unimixing.backward_global):
            build(program, arch, types, fixed)
    flags = {"HAS_BIAS": True, "SAVE": True, "PRECISION": precision}
    build(swiglu.forward, arch, types, {**swiglu_tiles(2048, 256, 512), **flags})
    build(swiglu.backward_gate, arch, types, {"BH": 512})


if __name__ == "__main__":
    build_all(90, "*bf16", "tf32")
    build_all(80, "*fp32", "ieee")
    for symmetric in (True, False):
        for size in (4, 256):
            types = dict.fromkeys(("scores", "plans", "targets", "spaces"), "*fp32") | {"tolerance": "fp32"}
            fixed = sinkhorn_tiles(size)
            build(sinkhorn.scale, 90, types, {"SYMMETRIC": symmetric, **fixed}, fixed.pop("num_warps"))
