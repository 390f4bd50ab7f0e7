"""Experts between the pooled output and the towers of several tasks: MMoE and PLE."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_choice, unknown

TASK_HEADS = ("shared_bottom", "mmoe", "ple")


@dataclass(frozen=True, kw_only=True)
class MMoEOptions:
    """Options of the task head ``mmoe``."""

    num_experts: int = 4
    """Experts that all tasks share."""
    expert_dims: Sequence[int] = (64,)
    """Widths of the layers of an expert; the last one is the width that a tower reads."""


@dataclass(frozen=True, kw_only=True)
class PLEOptions:
    """Options of the task head ``ple``."""

    num_experts: int = 2
    """Experts of each task alone."""
    num_shared_experts: int = 2
    num_levels: int = 2
    """Levels of extraction; one level is the paper's CGC."""
    expert_dims: Sequence[int] = (64,)
    """Widths of the layers of an expert; the last one is the width that the next level and a tower read."""


_OPTIONS: dict[str, type[MMoEOptions] | type[PLEOptions]] = {"mmoe": MMoEOptions, "ple": PLEOptions}


class PerTask(nn.ModuleList):
    """Modules with one member a task, in the order of the tasks.

    A warm start moves the members by the names of their tasks.

    Example:
        >>> len(PerTask(nn.Linear(3, 1) for _ in ("click", "like")))
        2
    """


class ExpertGate(nn.Module):
    r"""Weights of experts, :math:`g(x) = \mathrm{softmax}(W x)`.

    The rows of W that belong to the experts of one task are a weight of their own, so that they can follow their task.
    Source: the gates of MMoE (Ma et al., KDD 2018).

    Args:
        in_dim: width of x.
        num_experts: experts that belong to no task, or to the task of the gate.
        by_task: number of experts of each task that come before them.

    Shape:
        - x: ``(B, in_dim)``; output: ``(B, experts)``, rows sum to one

    Example:
        >>> ExpertGate(in_dim=4, num_experts=3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_dim: int, num_experts: int, by_task: Sequence[int] = ()) -> None:
        super().__init__()
        self.by_task = PerTask(nn.Linear(in_dim, count, bias=False) for count in by_task)
        self.linear = nn.Linear(in_dim, num_experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the weights of a batch."""
        return torch.cat([linear(x) for linear in (*self.by_task, self.linear)], dim=1).softmax(1)


class Extraction(nn.Module):
    r"""One level of experts and gates: every task mixes its own experts and the shared ones.

    .. math:: h_k = \sum_{i} g_k(x_k)_i\, e_i, \qquad e \in \{f_{k,1}(x_k), \dots, f_{s,1}(x_s), \dots\}

    A level below the last one also gives the input of the next level's shared experts. Their gate mixes the experts
    of all tasks.

    Args:
        in_dim: width of every input.
        num_tasks: K.
        num_experts: experts of each task; may be 0.
        num_shared_experts: experts that all tasks read.
        expert_dims: widths of the layers of an expert.
        last: whether no level follows.

    Shape:
        - inputs: K tensors ``(B, in_dim)`` of the tasks, then the one of the shared experts
        - output: K tensors ``(B, expert_dims[-1])``, then the shared one unless ``last``
    """

    def __init__(
        self,
        in_dim: int,
        num_tasks: int,
        *,
        num_experts: int,
        num_shared_experts: int,
        expert_dims: Sequence[int],
        last: bool,
    ) -> None:
        super().__init__()

        def experts(count: int) -> nn.ModuleList:
            return nn.ModuleList(hidden_layers([in_dim, *expert_dims]) for _ in range(count))

        tasks = range(num_tasks if num_experts else 0)
        self.num_experts, self.num_shared_experts = num_experts, num_shared_experts
        self.task_experts = PerTask(experts(num_experts) for _ in tasks)
        self.shared_experts = experts(num_shared_experts)
        self.gates = PerTask(ExpertGate(in_dim, num_experts + num_shared_experts) for _ in range(num_tasks))
        by_task = [num_experts for _ in tasks]
        self.shared_gate = None if last else ExpertGate(in_dim, num_shared_experts, by_task)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the experts, then mix them for every reader."""
        *of_tasks, shared_input = inputs
        shared = [expert(shared_input) for expert in self.shared_experts]
        own: list[list[Tensor]] = [[] for _ in of_tasks]
        for number, experts in enumerate(self.task_experts):
            assert isinstance(experts, nn.ModuleList)
            own[number] = [expert(of_tasks[number]) for expert in experts]
        outputs = [_mix(gate(x), [*mine, *shared]) for gate, x, mine in zip(self.gates, of_tasks, own, strict=True)]
        if self.shared_gate is not None:
            outputs.append(
                _mix(self.shared_gate(shared_input), [*(output for mine in own for output in mine), *shared])
            )
        return outputs

    def expert_names(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """Name the experts that each gate weighs, in the order of its weights.

        Args:
            tasks: names of the tasks.

        Returns:
            The names by reader: every task, then ``shared`` where a level follows.
        """
        own = {task: [f"{task} {number + 1}" for number in range(self.num_experts)] for task in tasks}
        shared = [f"shared {number + 1}" for number in range(self.num_shared_experts)]
        names = {task: [*experts, *shared] for task, experts in own.items()}
        if self.shared_gate is not None:
            names["shared"] = [*(name for experts in own.values() for name in experts), *shared]
        return names


class TaskExperts(nn.Module):
    r"""Levels of experts from the pooled output to one input for every task's tower.

    ``mmoe`` is one level of shared experts alone, with a gate a task, MMoE (Ma et al., KDD 2018):

    .. math:: y_k = h_k\Bigl(\sum_{i=1}^{n} g_k(x)_i\, f_i(x)\Bigr), \qquad g_k(x) = \mathrm{softmax}(W_k x)

    ``ple`` is progressive layered extraction (Tang et al., RecSys 2020): tasks have experts of their own beside the
    shared ones, and every level reads the mixtures of the level below. Experts here are linear layers with
    SiLU, as towers are; the papers have ReLU.

    Source: the two papers.

    Args:
        in_dim: R.
        num_tasks: K.
        options: numbers and widths of the experts.

    Shape:
        - pooled: ``(B, R)``; output: one tensor ``(B, expert_dims[-1])`` a task

    Example:
        >>> experts = TaskExperts(6, 2, MMoEOptions(num_experts=3, expert_dims=(5,)))
        >>> [x.shape for x in experts(torch.zeros(4, 6))]
        [torch.Size([4, 5]), torch.Size([4, 5])]
    """

    def __init__(self, in_dim: int, num_tasks: int, options: MMoEOptions | PLEOptions) -> None:
        super().__init__()
        own, shared, levels = 0, options.num_experts, 1
        if isinstance(options, PLEOptions):
            own, shared, levels = options.num_experts, options.num_shared_experts, options.num_levels
        self.out_dim = options.expert_dims[-1]
        self.levels = nn.ModuleList(
            Extraction(
                in_dim if level == 0 else self.out_dim,
                num_tasks,
                num_experts=own,
                num_shared_experts=shared,
                expert_dims=options.expert_dims,
                last=level == levels - 1,
            )
            for level in range(levels)
        )
        self.num_tasks = num_tasks

    def forward(self, pooled: Tensor) -> list[Tensor]:
        """Mix level by level."""
        inputs = [pooled] * (self.num_tasks + 1)
        for level in self.levels:
            inputs = level(inputs)
        return inputs


def build_task_experts(
    name: str, in_dim: int, num_tasks: int, options: Mapping[str, Any] | None = None
) -> TaskExperts | None:
    """Build the experts of a task head by its name in :data:`TASK_HEADS`; None for ``shared_bottom``.

    Raises:
        UnimixerError: unknown name or option, a value of another type, a single task.
    """
    check_choice("task_head", name, TASK_HEADS)
    values = dict(options or {})
    if name not in _OPTIONS:
        if values:
            raise UnimixerError(
                f"task_head_options={values}: task head {name!r} has no options; choose mmoe or ple, or leave them out"
            )
        return None
    if num_tasks < 2:
        raise UnimixerError(f"task_head={name!r} divides experts among tasks and there is one task; leave it out")
    known = {field.name for field in fields(_OPTIONS[name])}
    for option, value in values.items():
        if option not in known:
            raise unknown(f"option of task head {name!r}:", option, known)
        _check(option, value)
    return TaskExperts(in_dim, num_tasks, _OPTIONS[name](**values))


def _check(option: str, value: Any) -> None:
    """Raise for a value that is no count, or no widths."""
    many = option == "expert_dims"
    values = list(value) if many and isinstance(value, list | tuple) else [None] if many else [value]
    if not values or any(not isinstance(one, int) or isinstance(one, bool) or one < 1 for one in values):
        wanted = "one or more whole numbers from 1 on, such as [64]" if many else "a whole number from 1 on"
        raise UnimixerError(f"task_head_options: {option}={value!r} is not {wanted}")


def hidden_layers(dims: Sequence[int]) -> nn.Sequential:
    """Make linear layers of these widths, each with SiLU."""
    return nn.Sequential(*(layer for i, o in itertools.pairwise(dims) for layer in (nn.Linear(i, o), nn.SiLU())))


def _mix(weights: Tensor, experts: Iterable[Tensor]) -> Tensor:
    """Add up the outputs of experts by their weights: ``(B, E)`` and E tensors ``(B, H)`` to ``(B, H)``."""
    mixed: Tensor = (weights.unsqueeze(1) @ torch.stack(list(experts), dim=1).to(weights.dtype)).squeeze(1)
    return mixed
