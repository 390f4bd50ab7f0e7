"""Penalties and measurements: when they exist, who collects them, and that nothing else ever sees them."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from unimixer.blocks import Auxiliary, ReLUMoE, Transient, after_step, pop_penalties, pop_statistics

T, D = 3, 4


def layer(**options: object) -> ReLUMoE:
    return ReLUMoE(T, D, 16, num_experts=4, **{"active_ratio": 0.25, **options})  # type: ignore[arg-type]


def rows(batch: int = 8) -> Tensor:
    return torch.randn(batch, T, D)


class Fixed(Auxiliary):
    """Adds a penalty and a count that are given; notes what it hears after a step."""

    def __init__(self, penalty: float, counts: list[float] | None = None, team: str = "") -> None:
        super().__init__()
        self.weight, self.given, self.team = nn.Parameter(torch.tensor(penalty)), counts, team
        self.heard: list[float] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.penalty = 1 * self.weight if self.records else None
        self.counts = torch.tensor(self.given) if self.given and self.records else None
        return x

    def pools_with(self, other: Auxiliary) -> bool:
        return isinstance(other, Fixed) and self.team == other.team

    def after_step(self, totals: Tensor | None = None) -> None:
        assert totals is not None
        self.heard = totals.tolist()
        self.statistics = {"heard": totals.sum()}
        super().after_step()


def test_penalties_add_up_are_cleared_and_carry_their_graph() -> None:
    model = nn.Sequential(Fixed(2.0), Fixed(3.0))
    model(torch.zeros(1))
    total = pop_penalties(model)
    assert total is not None
    assert total.item() == 5
    total.backward()
    assert [p.grad for p in model.parameters()] == [1, 1]
    assert pop_penalties(model) is None
    assert pop_penalties(nn.Linear(1, 1)) is None


def test_a_forward_outside_training_keeps_nothing_and_clears_what_was_left() -> None:
    model = layer()
    for outside in ("eval", "no_grad"):
        model.train()(rows())
        assert model.penalty is not None
        if outside == "eval":
            model.eval()(rows())
        else:
            with torch.no_grad():
                model(rows())
        assert model.penalty is None
        assert model.counts is None
        assert pop_penalties(model) is None


def test_counts_of_all_batches_of_a_step_are_heard_once_by_those_who_pool() -> None:
    model = nn.Sequential(Fixed(0.0, [1.0, 2.0], "a"), Fixed(0.0, [10.0, 20.0], "a"), Fixed(0.0, [5.0, 5.0], "b"))
    for _ in range(3):
        model(torch.zeros(1))
        pop_penalties(model)
    after_step(model, reduce=lambda total: 2 * total)  # as if two processes had counted alike
    assert [part.heard for part in model] == [[66, 132], [66, 132], [30, 30]]
    assert pop_statistics(model) == {"heard": (198 + 198 + 60) / 3}
    assert pop_statistics(model) == {}
    for part in model:
        part.heard = None
    after_step(model)  # nothing was counted since
    assert [part.heard for part in model] == [None, None, None]


def test_a_copy_a_pickle_and_the_saved_weights_are_without_them() -> None:
    model = nn.Sequential(layer(), Fixed(1.0, [1.0]))
    names = set(model.state_dict())
    model(rows())
    pop_penalties(model)
    model(rows())
    assert set(model.state_dict()) == names
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert [(p.penalty, p.counts, p.totals, p.statistics) for p in other] == [(None, None, None, None)] * 2
        assert other.state_dict().keys() == names
        other(rows())
        assert pop_penalties(other) is not None
    assert pop_penalties(model) is not None


def test_a_subclass_keeps_the_transient_names_of_its_bases() -> None:
    class Both(Fixed):
        transient = ("more",)
        more: Tensor | None = None

    module = Both(1.0)
    module.more = 1 * module.weight
    module(torch.zeros(1))
    twin = copy.deepcopy(module)
    assert (twin.more, twin.penalty) == (None, None)
    assert module.more is not None
    assert issubclass(Both, Transient)


def moved(model: ReLUMoE, open_gates: float, of: float = 100.0) -> float:
    model.totals = torch.tensor([open_gates, of])
    before = model.coefficient.item()
    model.after_step()
    return model.coefficient.item() / before


def test_the_coefficient_grows_while_too_few_gates_are_zero_and_shrinks_elsewhere() -> None:
    model = layer()
    assert model.coefficient.item() == pytest.approx(1e-8)
    model.coefficient.fill_(1e-4)
    assert moved(model, 26.0) == pytest.approx(1.2)
    assert moved(model, 25.0) == pytest.approx(1 / 1.2)  # the target is met: not below it
    assert moved(model, 3.0) == pytest.approx(1 / 1.2)
    before = model.coefficient.item()
    model.after_step()  # no forward since: nothing to learn from
    assert model.coefficient.item() == before


def test_the_coefficient_of_a_target_out_of_reach_stays_a_number() -> None:
    model = layer()
    for open_gates, end in ((100.0, 1.0), (0.0, 1e-8)):
        for _ in range(300):
            moved(model, open_gates)
        assert model.coefficient.item() == pytest.approx(end)
    assert moved(model, 100.0) == pytest.approx(1.2)  # and can go back


@pytest.mark.parametrize(("control", "expected"), [("model", [1.2, 1.2]), ("layer", [1.2, 1 / 1.2])])
def test_layers_meet_the_target_together_or_each_for_itself(control: str, expected: list[float]) -> None:
    model = nn.Sequential(layer(control=control), layer(control=control))
    for part, open_gates in zip(model, (45.0, 10.0), strict=True):
        part.coefficient.fill_(1e-4)
        part.totals = torch.tensor([open_gates, 100.0])
    after_step(model)
    assert [part.coefficient.item() / 1e-4 for part in model] == pytest.approx(expected)
    assert pop_statistics(model) == {
        "active_ratio": pytest.approx(0.275),
        "penalty_coefficient": pytest.approx(1e-4),  # the one of the step that was measured
    }


def test_the_coefficient_is_saved_and_stays_float32_wherever_the_module_goes() -> None:
    model = layer()
    moved(model, 100.0)
    twin = layer()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.coefficient, model.coefficient)
    for moving in (lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.to("cpu", torch.float16)):
        other = moving(copy.deepcopy(model))
        assert other.coefficient.dtype == torch.float32
        assert torch.equal(other.coefficient, model.coefficient)
    with torch.device("meta"):
        empty = layer()
    assert empty.to_empty(device="cpu").coefficient.dtype == torch.float32


@pytest.mark.parametrize("combine", ["mean", "alternate"])
def test_the_controller_drives_the_active_ratio_to_its_target(combine: str) -> None:
    torch.manual_seed(0)
    first, second = layer(combine=combine), layer(combine=combine)
    model, teacher = nn.ModuleList([first, second]), nn.Linear(D, D)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    ratios, losses = [], []
    for _ in range(400):
        x = rows(64)
        hidden = x + first(x)
        loss = (hidden + second(hidden) - teacher(x).tanh()).square().mean()
        penalty = pop_penalties(model)
        assert penalty is not None
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        after_step(model)
        ratios.append(pop_statistics(model)["active_ratio"])
        losses.append(loss.item())
    assert ratios[0] > 0.4  # a ReLU of a symmetric number is open half of the time
    assert sum(ratios[-80:]) / 80 == pytest.approx(0.25, abs=0.04)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
