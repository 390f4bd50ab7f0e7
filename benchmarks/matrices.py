"""Draw the mixing matrices of one form for docs: four models, and UniMixing at four temperatures. No model is trained.

Matrices multiply the 64 numbers of 4 flattened tokens of width 16; learned ones have a random start. Example:

    python benchmarks/matrices.py docs
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.cli import script
from unimixer.mixing import SharedLinear, SoftmaxAttention, TokenMixing, Unified, UniMixing
from unimixer.report.figures import new_figure, png_bytes

TOKENS, DIM = 4, 16
TEMPERATURES = (1.0, 0.3, 0.1, 0.03)


def unimixing(temperature: float) -> UniMixing:
    torch.manual_seed(1)
    return UniMixing(TOKENS * DIM, 4, init="random", temperature=temperature, symmetric=True)


def models() -> dict[str, Tensor]:
    """Return the mixing matrix of every model by its name."""
    torch.manual_seed(0)
    tokens = torch.randn(1, TOKENS, DIM)

    def linear(width: int) -> SharedLinear:
        return SharedLinear(TOKENS, DIM, width)

    attention = Unified(linear(DIM), SoftmaxAttention(linear(DIM), linear(DIM)))
    return {
        "no mixing": torch.eye(TOKENS * DIM),
        "the rule (RankMixer)": TokenMixing(TOKENS, DIM).mixing_matrix(),
        "self-attention, one example": attention.mixing_matrix(tokens)[0],
        "UniMixing, temperature 0.1": unimixing(0.1).mixing_matrix(),
    }


def temperatures() -> dict[str, Tensor]:
    """Return the matrix of UniMixing between blocks at every temperature."""
    return {f"temperature {tau:g}": unimixing(tau).weights()[0].detach() for tau in TEMPERATURES}


def draw(matrices: dict[str, Tensor], *, step: int) -> Any:
    """Draw the absolute values of matrices side by side, with a line every ``step`` rows and columns."""
    figure = new_figure(2.6 * len(matrices), 2.8)
    axes = figure.subplots(1, len(matrices))
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
        axis.imshow(matrix.abs(), cmap="Blues", vmin=0)
        axis.set_title(name, fontsize=10)
        lines = [edge - 0.5 for edge in range(step, len(matrix), step)]
        axis.hlines(lines, -0.5, len(matrix) - 0.5, color="#9ca3af", linewidth=0.5)
        axis.vlines(lines, -0.5, len(matrix) - 0.5, color="#9ca3af", linewidth=0.5)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "matrices.png").write_bytes(png_bytes(draw(models(), step=DIM)))
    (folder / "temperature.png").write_bytes(png_bytes(draw(temperatures(), step=DIM // TOKENS)))


if __name__ == "__main__":
    script(main)
