"""Define a benchmark: seeded inputs, implementations of one function, named sizes, and the work of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from unimixer.errors import UnimixerError


class UnavailableError(UnimixerError):
    """Raised if an implementation cannot run at this size or on this machine; its row gives the reason and no time."""


@dataclass(frozen=True)
class Case:
    """One size of a benchmark.

    Example:
        >>> case = Case.of(batch=2048, T=16)
        >>> case.name, case["T"]
        ('batch=2048 T=16', 16)
    """

    name: str
    sizes: Mapping[str, Any]
    small: bool = True
    """Part of the default set, which takes less than a minute a benchmark; the others run with ``--cases all``."""

    @classmethod
    def of(cls, *, small: bool = True, **sizes: Any) -> Case:
        """Make a case that is named after its sizes."""
        return cls(" ".join(f"{name}={value}" for name, value in sizes.items()), sizes, small)

    def __getitem__(self, name: str) -> Any:
        return self.sizes[name]


class Product(NamedTuple):
    """A batched matrix product ``(groups, rows, inner) @ (groups, inner, columns)``."""

    groups: int
    rows: int
    inner: int
    columns: int


@dataclass(frozen=True)
class Work:
    """Count the work of one run of a case, for any implementation; 0 for a number of no use."""

    flops: float = 0.0
    """Floating-point operations: two for every multiply-add of a matrix product."""
    num_bytes: float = 0.0
    """Bytes that must be read and written at least once."""
    rows: float = 0.0
    """Samples, impressions or look-ups."""
    products: tuple[Product, ...] = ()
    """The matrix products of a forward pass. As a ceiling they run alone, forward and backward."""


class Prepared(NamedTuple):
    """Hold an implementation that is ready to run on the inputs of a case."""

    run: Callable[[], object]
    """The timed function."""
    results: Callable[[], Mapping[str, Tensor]]
    """Outputs and gradients by name, for the gate. Called once, before anything is timed."""


class Setting:
    """Hold the device, the folder and the only generator of a case: equal cases get equal inputs.

    Args:
        seed: of the generator.
        device: of the tensors.
        folder: for files; empty when the case starts, removed when it ends.
    """

    def __init__(self, seed: int, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Draw normal numbers of a standard deviation."""
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw uniform integers from 0 to ``high - 1``."""
        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw uniform numbers from 0 to 1."""
        return torch.rand(shape, generator=self.generator).to(self.device)


Implementation = Callable[[Any], Prepared]


@dataclass(frozen=True)
class Benchmark:
    """Describe one entry of the registry.

    ``implementations`` compute the same function and the first is the reference. Before anything is timed, every one
    must give the results of the reference, outputs and gradients, within ``tolerance`` times the largest number of
    the tensor. A wrong implementation gets no time.
    """

    name: str
    measures: str
    """One line."""
    inputs: Callable[[Case, Setting], Any]
    """Builds the inputs that all implementations of a case share; they must not change them."""
    implementations: Mapping[str, Implementation]
    cases: Sequence[Case]
    work: Callable[[Case], Work] = field(default=lambda case: Work())
    tolerance: float = 1e-4
    devices: Sequence[str] = ("cpu", "cuda")
    """Kinds of device that the benchmark can run on."""
    memory: bool = True
    """Whether the benchmark takes its memory in this process."""

    @property
    def reference(self) -> str:
        """Name the implementation that the others must agree with."""
        return next(iter(self.implementations))


def differentiable(
    function: Callable[..., Tensor], *tensors: Tensor, backward: bool = True, constants: Sequence[Any] = ()
) -> Prepared:
    """Prepare forward and backward of a function of tensors, with a fixed gradient of its output.

    Args:
        function: of ``(*tensors, *constants)``.
        tensors: floating-point inputs that get gradients; they are copied.
        backward: False for the forward pass alone, without a graph.
        constants: further arguments.
    """
    leaves = [tensor.detach().clone().requires_grad_(backward) for tensor in tensors]
    upstream: list[Tensor] = []

    def run() -> Tensor:
        if not backward:
            with torch.no_grad():
                return function(*leaves, *constants)
        for leaf in leaves:
            leaf.grad = None
        output = function(*leaves, *constants)
        if not upstream:
            upstream.append(fixed_gradient(output))
        torch.autograd.backward(output, upstream[0])
        return output

    def results() -> dict[str, Tensor]:
        output = run().detach()
        gradients = {f"gradient {number}": leaf.grad for number, leaf in enumerate(leaves) if leaf.grad is not None}
        return {"output": output, **gradients}

    return Prepared(run, results)


def fixed_gradient(output: Tensor) -> Tensor:
    """Draw the same normal numbers for every output of one shape."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator).to(output)


@contextmanager
def setting(benchmark: Benchmark, case: Case, device: torch.device) -> Iterator[Setting]:
    """Make the setting of a case, seeded by the names of benchmark and case."""
    with TemporaryDirectory(prefix="unimixer-bench-") as folder:
        yield Setting(crc32(f"{benchmark.name} {case.name}".encode()), device, Path(folder))
