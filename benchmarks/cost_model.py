"""What a step would cost on 8 to 512 GPUs: a calculation, and no measurement.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --form fsdp

Bytes follow from the recipe, corrected by those that were counted between two processes (exchanged_bytes.py); links and
GPUs have their published speeds. No process is started.
"""

from __future__ import annotations

import argparse

from distributed import table

NVLINK, NETWORK, FLOPS = 450e9, 50e9, 400e12
"""Published, an H100 machine of 8 GPUs: NVLink 4 has 900 GB/s both ways, 450 GB/s one way; a 400 Gbit/s network card a
GPU; and 400e12 bfloat16 operations a second, 40% of the 989e12 of the data sheet."""
COUNTED = 1.04
"""Bytes that the kernel counted between two processes, over those computed here: benchmarks/exchanged_bytes.py."""


def model(batch: int, fields: int, width: int, dense: float, form: str) -> None:
    """Milliseconds of a step on many GPUs: a MODEL from counted bytes and link speeds, not a measurement.

    Vectors: every looked-up vector, as if all were distinct, travels once forward and once backward between ranks, in
    float32; of W ranks, W - 1 in W vectors are elsewhere, inside the machine of 8 over NVLink, beyond it over the GPU's
    own network card.
    Dense parameters alike on all GPUs: a ring sends 2 (W - 1) / W of the bytes of their gradients, while backward runs.
    Cut: the weights travel to all in forward and again in backward, the gradients to where they are held, each
    (W - 1) / W of their bytes, while the part of the computation runs that they belong to.
    Between machines the 8 cards of each share the bytes. Compute: 6 operations a dense parameter and row, a third of
    them in forward.
    """
    rows: list[list[object]] = []
    for gpus in (8, 16, 32, 64, 128, 256, 512):
        compute = 6 * dense * batch / FLOPS
        near, far = min(gpus, 8) - 1, max(0, gpus - 8)
        a_row = COUNTED * fields * (2 * width * 4 + 8)  # a vector forward, its gradient backward, an id
        vectors = max(batch * a_row * near / gpus / NVLINK, batch * a_row * far / gpus / NETWORK)
        a_copy = COUNTED * dense * 4
        once = max(a_copy * 7 / 8 / NVLINK, a_copy * far / gpus / (8 * NETWORK))
        before = once if form == "fsdp" else 0.0
        total = max(compute / 3, before) + max(compute * 2 / 3, 2 * once) + vectors
        ms = [f"{1e3 * t:.2f}" for t in (compute, vectors, before + 2 * once, total)]
        rows.append([gpus, *ms, f"{1 - compute / total:.0%}", f"{batch * gpus / total / 1e6:.1f}M"])
    print(f"MODEL, not measured: {batch} rows a GPU, {fields} lookups a row x {width}, {dense:.0e} dense parameters")
    print(f"distributed.dense={form}\n")
    columns = [
        "GPUs",
        "compute, ms",
        "vectors and ids, ms",
        "dense gradients, ms" if form == "ddp" else "dense weights and gradients, ms",
        "step, ms",
        "not computing",
        "samples/s",
    ]
    table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2048, help="rows a GPU")
    parser.add_argument("--fields", type=int, default=200, help="vectors a row, events of histories included")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--dense", type=float, default=1e8, help="dense parameters")
    parser.add_argument("--form", choices=("ddp", "fsdp"), default="ddp", help="distributed.dense of the recipe")
    arguments = parser.parse_args()
    model(arguments.batch, arguments.fields, arguments.width, arguments.dense, arguments.form)


if __name__ == "__main__":
    main()
