"""Pictures of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from unimixer.inspection.start import Movement, measure_movement
from unimixer.report.inspection_figures import draw_matrix, draw_runs, movement_caption
from unimixer.training.run import RunFolder


def test_curves_and_matrices_of_runs_are_one_png(toy_run: RunFolder, tmp_path: Path) -> None:
    runs = {"first": toy_run, "again": toy_run}
    caption = draw_runs(runs, tmp_path / "runs.png", task="is_click", matrices_of="first")
    assert caption == movement_caption("first", measure_movement(toy_run))
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in tmp_path.iterdir()] == ["runs.png"]


def test_a_matrix_is_called_learned_only_if_it_moved() -> None:
    eye, flat = torch.eye(4), torch.full((4, 4), 0.25)
    still, moved = Movement("a", eye, eye + 1e-6), Movement("b", eye, flat)
    said = [movement_caption("lite", layers) for layers in ([], [still, still], [still, moved], [moved, moved])]
    assert said == [
        "lite has no learned mixing matrices",
        "the rule, and the mixing matrices of lite: training did not move them from their start",
        "the rule, and 1 of 2 mixing matrices that lite learned: training moved 75% of their weights",
        "the rule, and the mixing matrices that lite learned: training moved 75% of their weights",
    ]


@pytest.mark.parametrize(("signed", "limits"), [(False, (0, 0.75)), (True, (-2.0, 2.0))])
def test_a_matrix_is_scaled_to_its_largest_entry_on_both_sides_if_it_has_two(
    signed: bool, limits: tuple[float, float]
) -> None:
    matrix = torch.tensor([[0.75, 0.25, 0.0], [0.0, -2.0 if signed else 0.5, 0.5]])
    axis = Figure().subplots()
    draw_matrix(axis, matrix, title="here")
    (image,) = axis.images
    assert image.get_clim() == limits
    assert torch.equal(torch.from_numpy(image.get_array().data), matrix)
    assert axis.get_title() == "here"


def test_a_matrix_larger_than_its_panel_shows_every_strong_entry() -> None:
    matrix = torch.zeros(300, 300)
    matrix[7, 299] = 1.0
    axis = Figure().subplots()
    draw_matrix(axis, matrix, title="large", largest=1.0)
    shown = torch.from_numpy(axis.images[0].get_array().data)
    assert shown.shape == (100, 100)
    assert shown.nonzero().tolist() == [[2, 99]]
    assert axis.images[0].get_extent() == [-0.5, 299.5, 299.5, -0.5]
