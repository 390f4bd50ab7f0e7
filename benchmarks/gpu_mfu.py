"""Model FLOPs utilisation (MFU) of training on one GPU: eager, compiled, as a CUDA graph, with and without kernels.

MFU is the work that the model asks for, divided by what the same GPU does in the same seconds with one large bfloat16
product, measured right before; ``--peak`` divides by the data sheet's number as well. The work of a step and sample:

    6 FLOPs for every parameter outside mixings, and three times the FLOPs of the products inside mixings

A step is forward, loss, backward (the gradient of the tokens included) and Adam, under bfloat16 autocast, on tokens
that are already on the device. Every form first passes a gate: the losses of three steps and the gradients of the first
one agree with float32 without compilation and kernels; no time is printed for one that does not. A form that cannot be
had has a row with the reason: the reference of Sinkhorn, say, asks the GPU at every step whether to go on, which no
CUDA graph can hold. Examples:

    python benchmarks/gpu_mfu.py
    python benchmarks/gpu_mfu.py --device cpu --params 0.1M --batch 64 --repeats 1 --forms eager

Needs torch and this package; Triton where there are kernels to measure. On a GPU each model has a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.backbones import Backbone, fit_budget
from unimixer.mixing import Mixing
from unimixer.ops import kernels
from unimixer.profiling.flops import count_flops

MODELS = ("rankmixer", "unimixer", "unimixer-lite", "tokenmixer-large")
FORMS = ("eager", "compiled", "graph", "compiled-graph")
COLUMNS = (
    *("model", "params", "batch", "kernels", "form", "ms_per_step", "spread_ms", "samples_per_s"),
    *("gflops_per_step", "tflops", "mfu", "mfu_of_peak", "peak_memory_mib", "note"),
)
LOSS_TOLERANCE, LEAST_COSINE = 0.02, 0.99


class Unavailable(Exception):  # noqa: N818
    """This form cannot run here."""


class Trainer:
    """A backbone with a head on the mean of its tokens, static inputs, and the step that is measured."""

    def __init__(self, backbone: Backbone, batch: int, device: torch.device, *, bfloat16: bool) -> None:
        torch.manual_seed(1)
        self.backbone = backbone.to(device).train()
        self.head = nn.Linear(backbone.out_dim, 1).to(device)
        self.tokens = torch.randn(batch, backbone.num_tokens, backbone.token_dim).to(device).requires_grad_()
        self.labels = torch.arange(batch, device=device).remainder(2).float()
        self.parameters = [*self.backbone.parameters(), *self.head.parameters()]
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3, capturable=on_gpu, fused=on_gpu or None)
        self.device, self.bfloat16, self.loss = device, bfloat16, self._loss

    def _loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self.backbone(tokens)
            logits = self.head(output.mean(1) if output.dim() == 3 else output).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits.float(), self.labels)

    def step(self) -> Tensor:
        """One step of training; the gradients of the step stay."""
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens.grad = None
        loss = self.loss(self.tokens)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradient(self) -> Tensor:
        """All gradients in one vector, float64."""
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in [*self.parameters, self.tokens]]
        return torch.cat([gradient.double().flatten().cpu() for gradient in zeros])


def captured(trainer: Trainer) -> Callable[[], Tensor]:
    """The whole step as a CUDA graph; parameters and Adam's state are put back to where they were."""
    if trainer.device.type != "cuda":
        raise Unavailable("a CUDA graph needs a GPU")
    before = [p.detach().clone() for p in trainer.parameters]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            trainer.step()
    torch.cuda.current_stream().wait_stream(side)
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.tokens.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = trainer.step()
    with torch.no_grad():
        for parameter, value in zip(trainer.parameters, before, strict=True):
            parameter.copy_(value)
        for state in trainer.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def replay() -> Tensor:
        graph.replay()
        return loss.clone()

    return replay


def prepare(trainer: Trainer, form: str, backend: str) -> Callable[[], Tensor]:
    """The step of a form."""
    if form.startswith("compiled"):
        torch.compiler.reset()
        trainer.loss = torch.compile(trainer.loss, fullgraph=True, backend=backend)
    return captured(trainer) if form.endswith("graph") else trainer.step


def trajectory(step: Callable[[], Tensor], trainer: Trainer) -> tuple[list[float], Tensor]:
    """Losses of three steps, gradients of the first."""
    first = step().item()
    gradient = trainer.gradient()
    return [first, step().item(), step().item()], gradient


def gate(found: tuple[list[float], Tensor], expected: tuple[list[float], Tensor]) -> None:
    """Raise where losses or gradients are not those of the reference."""
    for number, (loss, wanted) in enumerate(zip(found[0], expected[0], strict=True)):
        if not abs(loss - wanted) <= LOSS_TOLERANCE * abs(wanted):
            raise AssertionError(f"wrong: loss {loss:.4f} at step {number + 1}, the reference has {wanted:.4f}")
    cosine = float(F.cosine_similarity(found[1], expected[1], dim=0))
    if not cosine >= LEAST_COSINE:
        raise AssertionError(f"wrong: the cosine of gradient and reference is {cosine:.4f}, below {LEAST_COSINE}")


def seconds(call: Callable[[], object], device: torch.device, repeats: int, least: float = 0.2) -> list[float]:
    """Seconds a call, of several groups of calls that last a while, after a warm-up."""

    def group(count: int) -> float:
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        begin = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3
        return time.perf_counter() - begin

    group(2)
    count = max(1, min(1000, round(least / max(group(1), 1e-6))))
    return [group(count) / count for _ in range(repeats)]


def matmul_rate(device: torch.device, repeats: int) -> float:
    """FLOPs a second of one bfloat16 product, the best of some sizes."""

    def rate(size: int) -> float:
        left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * size**3 / median(seconds(lambda: left @ right, device, max(repeats, 3)))

    return max(map(rate, (4096, 8192) if device.type == "cuda" else (256,)))


def step_flops(backbone: Backbone) -> int:
    """FLOPs of a training step for one sample, by the definition at the top."""
    inside = {id(p) for m in backbone.modules() if isinstance(m, Mixing) for p in m.parameters()}
    outside = [p for p in backbone.parameters() if id(p) not in inside]
    dense = sum(p.numel() for p in outside)
    biases = {id(p) for name, p in backbone.named_parameters() if name.endswith("bias")}
    matrices = sum(p.numel() for p in outside if p.dim() >= 2 and id(p) not in biases)
    return 6 * dense + 3 * max(0, count_flops(backbone) - 2 * matrices)


def parse_count(text: str) -> int:
    """``0.1M`` is 100000."""
    factors = {"K": 1_000, "M": 1_000_000}
    return round(float(text.rstrip("KMkm")) * factors.get(text[-1].upper(), 1))


def rows_of(name: str, params: int, options: argparse.Namespace, rate: float) -> list[dict[str, object]]:
    """Measure all forms of one model."""
    device = torch.device(options.device)

    def trainer(bfloat16: bool) -> Trainer:
        torch.manual_seed(0)
        backbone = fit_budget(name, params=params, num_tokens=options.num_tokens)
        return Trainer(backbone, options.batch, device, bfloat16=bfloat16)

    kernels.select("reference")
    exact = trainer(bfloat16=False)
    expected = trajectory(exact.step, exact)
    work = step_flops(exact.backbone) * options.batch
    size = sum(p.numel() for p in exact.backbone.parameters())
    del exact
    rows: list[dict[str, object]] = []
    for choice in options.kernels:
        for form in options.forms:
            row: dict[str, object] = {"model": name, "params": size, "batch": options.batch}
            rows.append(row | {"kernels": choice, "form": form})
            try:
                if choice == "triton" and not kernels.available(device):
                    raise Unavailable("kernels need Triton and a GPU of capability 8.0, or TRITON_INTERPRET=1")
                kernels.select(choice)
                rows[-1] |= measure(trainer(bfloat16=True), form, options, expected, work, rate)
            except Exception as error:
                rows[-1]["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return rows


def measure(
    trainer: Trainer,
    form: str,
    options: argparse.Namespace,
    expected: tuple[list[float], Tensor],
    work: int,
    rate: float,
) -> dict[str, object]:
    """Gate, then time, one form."""
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    step = prepare(trainer, form, options.backend)
    gate(trajectory(step, trainer), expected)
    times = seconds(step, trainer.device, options.repeats)
    now = median(times)
    return {
        "ms_per_step": f"{now * 1e3:.4g}",
        "spread_ms": f"{(max(times) - min(times)) * 1e3:.2g}",
        "samples_per_s": round(options.batch / now),
        "gflops_per_step": f"{work / 1e9:.4g}",
        "tflops": f"{work / now / 1e12:.4g}",
        "mfu": f"{work / now / rate:.4f}",
        "mfu_of_peak": f"{work / now / (options.peak * 1e12):.4f}" if options.peak else "",
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
    }


def machine(device: torch.device) -> str:
    """Hardware and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, triton {triton}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--params", nargs="+", default=["1M", "10M", "100M"], help="dense parameters")
    parser.add_argument("--num-tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--kernels", nargs="+", default=["reference", "triton"], choices=kernels.CHOICES)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOPs a second by the data sheet, 0 for none")
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    writer = csv.DictWriter(sys.stdout, COLUMNS, restval="")
    rate = options.rate
    if not rate:
        rate = matmul_rate(device, options.repeats)
        print(f"# {machine(device)}; bfloat16 product {rate / 1e12:.4g} TFLOP/s", flush=True)
        writer.writeheader()
    for text in options.params:
        for name in options.models:
            if device.type == "cuda" and not options.rate:  # an error inside a graph must not spoil the next model
                alone = ["--models", name, "--params", text, "--rate", str(rate)]
                sys.stdout.flush()
                subprocess.run([sys.executable, __file__, *arguments, *alone], check=False)
                continue
            writer.writerows(rows_of(name, parse_count(text), options, rate))
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
