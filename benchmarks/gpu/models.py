"""Model FLOPs utilisation (MFU) of four models on one GPU in bfloat16: eager, compiled, and both as CUDA graphs.

MFU is the work that the model asks for, divided by what the same GPU does in the same seconds with one large bfloat16
product, measured right before; ``mfu_of_peak`` divides by the number of the data sheet. The work of a sample:

    forward: 2 FLOPs for every parameter outside mixings, and the FLOPs of the products inside mixings
    step:    three times that

A forward is that of a frozen model with bfloat16 weights. A step is forward, loss, backward (the gradient of the tokens
included) and Adam, under bfloat16 autocast, on tokens that are already on the device. Every form first passes a gate:
outputs, or the losses of three steps and the gradients of the first one, agree with float32 without compilation. Widths
are multiples of eight numbers, which tensor cores need. Examples:

    python benchmarks/gpu/models.py
    python benchmarks/gpu/models.py --device cpu --models rankmixer --params 1M --batch 8 --repeats 1 --forms eager

Needs torch and this package. On a GPU each model has a process of its own, and before the first time is taken all of
them compile at once, which fills the cache of torch.compile.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from kit import Rows, captured, reason, seconds
from torch import Tensor, nn

from unimixer.backbones import Backbone, build_backbone
from unimixer.mixing import Mixing, cached_constraints, freeze
from unimixer.profiling.flops import count_flops

SIZES = {
    "unimixer-lite": {"1M": (64, 160), "10M": (256, 408), "100M": (704, 1480)},
    "unimixer": {"1M": (64, 136), "10M": (256, 392), "100M": (704, 1464)},
    "rankmixer": {"1M": (64, 240), "10M": (192, 808), "100M": (624, 2504)},
    "hetero-attention": {"1M": (64, 112), "10M": (160, 656), "100M": (512, 2024)},
}
"""Widths of tokens and of hidden layers, for 16 tokens and two blocks, by dense parameters."""
PARAMS = ("10M", "100M", "1M")
PASSES = ("forward", "step")
FORMS = ("eager", "compiled", "graph", "compiled-graph")
COLUMNS = (
    *("model", "params", "batch", "pass", "form", "ms", "spread_ms", "samples_per_s"),
    *("gflops", "tflops", "mfu", "mfu_of_peak", "peak_memory_mib", "note"),
)
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L4": 121.0}
"""TFLOPs a second in dense bfloat16 by the data sheets."""
LOSS_TOLERANCE, LEAST_COSINE = 0.02, 0.99


class Unavailable(Exception):  # noqa: N818
    """This form cannot run here."""


class Subject:
    """A backbone with a head on the mean of its tokens, static inputs, and the two passes that are measured.

    A form of a pass can follow another: parameters and Adam's state are put back to where they were.
    """

    def __init__(self, backbone: Backbone, batch: int, device: torch.device, *, bfloat16: bool) -> None:
        torch.manual_seed(1)
        self.backbone = backbone.to(device).train()
        self.head = nn.Linear(backbone.out_dim, 1).to(device)
        self.tokens = torch.randn(batch, backbone.num_tokens, backbone.token_dim).to(device).requires_grad_()
        self.labels = torch.arange(batch, device=device).remainder(2).float()
        self.parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.start = [p.detach().clone() for p in self.parameters]
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3, capturable=on_gpu, fused=on_gpu or None)
        self.device, self.bfloat16, self.loss = device, bfloat16, self._loss
        self.model: Callable[[Tensor], Tensor] = freeze(backbone)
        self.inputs = self.tokens.detach().to(torch.bfloat16 if bfloat16 else torch.float32)
        if bfloat16:
            self.model = self.model.bfloat16()

    def _loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self.backbone(tokens)
            logits = self.head(output.mean(1) if output.dim() == 3 else output).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits.float(), self.labels)

    def forward(self) -> Tensor:
        """Output tokens of the frozen model."""
        with torch.no_grad():
            return self.model(self.inputs)

    def step(self) -> Tensor:
        """One step of training; the gradients of the step stay."""
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens.grad = None
        with cached_constraints(self.backbone):  # as training does it: layers of one shape together
            loss = self.loss(self.tokens)
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradient(self) -> Tensor:
        """All gradients in one vector."""
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in [*self.parameters, self.tokens]]
        return torch.cat([gradient.float().flatten() for gradient in zeros])

    def compile(self, kind: str, backend: str) -> None:
        """Compile what a pass runs."""
        torch.compiler.reset()
        if kind == "step":
            self.loss = torch.compile(self.loss, fullgraph=True, backend=backend)
        else:
            self.model = torch.compile(self.model, fullgraph=True, backend=backend)

    def capture(self, kind: str) -> Callable[[], Tensor]:
        """A pass as a CUDA graph."""
        if self.device.type != "cuda":
            raise Unavailable("a CUDA graph needs a GPU")
        result: list[Tensor] = []

        def call() -> None:
            result[:] = [self.step() if kind == "step" else self.forward()]

        replay = captured(call)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.start, strict=True):
                parameter.copy_(value)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

        def replayed() -> Tensor:
            replay()
            return result[0].clone()

        return replayed


def trajectory(step: Callable[[], Tensor], subject: Subject) -> tuple[list[float], Tensor]:
    """Losses of three steps, gradients of the first."""
    first = step().item()
    gradient = subject.gradient()
    return [first, step().item(), step().item()], gradient


def facts(call: Callable[[], Tensor], subject: Subject, kind: str) -> tuple[list[float], Tensor]:
    """Everything about a pass that must agree with float32: losses, and one vector of gradients or outputs."""
    return trajectory(call, subject) if kind == "step" else ([], call().float().flatten())


def gate(computed: tuple[list[float], Tensor], expected: tuple[list[float], Tensor]) -> None:
    """Raise where losses, gradients or outputs are not those of the reference."""
    for number, (loss, wanted) in enumerate(zip(computed[0], expected[0], strict=True)):
        if not abs(loss - wanted) <= LOSS_TOLERANCE * abs(wanted):
            raise AssertionError(f"wrong: loss {loss:.4f} at step {number + 1}, the reference has {wanted:.4f}")
    cosine = float(F.cosine_similarity(computed[1], expected[1], dim=0))
    if not cosine >= LEAST_COSINE:
        raise AssertionError(f"wrong: the cosine of result and reference is {cosine:.4f}, below {LEAST_COSINE}")


def matmul_rate(device: torch.device, repeats: int) -> float:
    """FLOPs a second of one bfloat16 product, the best of some sizes."""

    def rate(size: int) -> float:
        left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * size**3 / median(seconds(lambda: left @ right, device, max(repeats, 3)))

    return max(map(rate, (4096, 8192) if device.type == "cuda" else (256,)))


def forward_flops(backbone: Backbone) -> int:
    """FLOPs of a forward for one sample, by the definition at the top."""
    inside = {id(p) for m in backbone.modules() if isinstance(m, Mixing) for p in m.parameters()}
    outside = [p for p in backbone.parameters() if id(p) not in inside]
    dense = sum(p.numel() for p in outside)
    biases = {id(p) for name, p in backbone.named_parameters() if name.endswith("bias")}
    matrices = sum(p.numel() for p in outside if p.dim() >= 2 and id(p) not in biases)
    return 2 * dense + max(0, count_flops(backbone) - 2 * matrices)


def measure_model(rows: Rows, name: str, params: str, options: argparse.Namespace) -> bool:
    """Rows of all passes and forms of one model; whether all were right and could be measured."""
    device = torch.device(options.device)
    token_dim, hidden_dim = SIZES[name][params]

    torch.manual_seed(0)
    backbone = build_backbone(name, num_tokens=16, token_dim=token_dim, hidden_dim=hidden_dim).to(device)
    exact = Subject(copy.deepcopy(backbone), options.batch, device, bfloat16=False)
    calls = {"forward": exact.forward, "step": exact.step}
    expected = {kind: facts(call, exact, kind) for kind, call in calls.items()}
    flops = forward_flops(backbone) * options.batch
    row: dict[str, object] = {"model": name, "params": sum(map(Tensor.numel, backbone.parameters()))}
    del exact, calls
    fine = True
    for kind in PASSES:
        work = flops * (3 if kind == "step" else 1)
        for compiled in (False, True):
            forms = [form for form in options.forms if form.startswith("compiled") == compiled]
            subject = Subject(copy.deepcopy(backbone), options.batch, device, bfloat16=True)
            if compiled:
                subject.compile(kind, options.backend)
            for form in forms:
                values = measure(subject, kind, form, expected[kind], work, options)
                fine &= str(values.get("note", "Unavailable")).startswith("Unavailable")
                if not options.warm:
                    rows.add(**row, batch=options.batch, **{"pass": kind}, form=form, **values)
    return fine


def measure(
    subject: Subject,
    kind: str,
    form: str,
    expected: tuple[list[float], Tensor],
    work: int,
    options: argparse.Namespace,
) -> dict[str, object]:
    """RequestMiddleware, then time, one form of a pass; where that cannot be, the reason."""
    try:
        if subject.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        plain = subject.step if kind == "step" else subject.forward
        call = subject.capture(kind) if form.endswith("graph") else plain
        gate(facts(call, subject, kind), expected)
        return {} if options.warm else times(call, subject.device, work, options)
    except Exception as error:
        return {"note": reason(error)}


def times(
    call: Callable[[], Tensor], device: torch.device, work: int, options: argparse.Namespace
) -> dict[str, object]:
    """The columns of a pass that passed its gate."""
    measured = seconds(call, device, options.repeats)
    now = median(measured)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else ""
    peak = next((peak for chip, peak in PEAKS.items() if chip in name), None)
    return {
        "ms": now * 1e3,
        "spread_ms": (max(measured) - min(measured)) * 1e3,
        "samples_per_s": round(options.batch / now),
        "gflops": work / 1e9,
        "tflops": work / now / 1e12,
        "mfu": work / now / options.rate,
        "mfu_of_peak": work / now / (peak * 1e12) if peak else "",
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
    }


def in_processes(arguments: Sequence[str], options: argparse.Namespace) -> bool:
    """Each model in a process of its own, so that an error inside a CUDA graph does not spoil the next model."""
    models = [(name, params) for params in options.params for name in options.models]

    def command(name: str, params: str, *more: str) -> list[str]:
        own = ["--models", name, "--params", params, "--rate", str(options.rate)]
        return [sys.executable, "-W", "ignore", __file__, *arguments, *own, *more]

    compiled = [form for form in options.forms if form.startswith("compiled")]
    if compiled:
        begin = time.perf_counter()
        warming = [
            subprocess.Popen([*command(*model, "--warm", "--forms", "compiled")], stdout=subprocess.DEVNULL)
            for model in models
        ]
        for process in warming:
            process.wait()
        print(f"# {len(models)} models compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    codes = [subprocess.run(command(*model), check=False).returncode for model in models]
    return not any(codes)


def main(arguments: Sequence[str]) -> int:
    """Measure all models; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu-models.csv"))
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--params", nargs="+", default=PARAMS, choices=PARAMS, help="dense parameters")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = Rows(options.out, COLUMNS, device)
    if not options.rate:
        options.rate = matmul_rate(device, options.repeats)
        print(f"# one bfloat16 product: {options.rate / 1e12:.4g} TFLOP/s", flush=True)
        rows.begin()
        if device.type == "cuda":
            return 0 if in_processes(arguments, options) else 1
    models = [(name, params) for params in options.params for name in options.models]
    results = [measure_model(rows, *model, options) for model in models]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
