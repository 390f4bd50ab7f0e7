"""A backbone of your own, registered under a name and trained like every other.

    python examples/new_backbone.py --out own-backbone --rows 50000

The backbone gates every token by the mean of all tokens: O_t = X_t * sigmoid(mean(X) W_t), then a per-token FFN.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unimixer import prepare, train
from unimixer.backbones import BACKBONES, Backbone
from unimixer.blocks import PerTokenFFN, PerTokenLinear, RMSNorm


class GatedMixer(Backbone):
    """Every block gates the tokens by their mean and then changes each by an FFN of its own."""

    family: ClassVar[str] = "mixer"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "chunk"
    global_pattern: ClassVar[str] = "a gate from the mean of all tokens"

    def __init__(self, *, num_tokens: int, token_dim: int, num_blocks: int = 2) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)
        self.gates = nn.ModuleList(PerTokenLinear(num_tokens, token_dim, token_dim) for _ in range(num_blocks))
        self.ffns = nn.ModuleList(PerTokenFFN(num_tokens, token_dim, 2 * token_dim) for _ in range(num_blocks))
        self.norms = nn.ModuleList(RMSNorm(token_dim) for _ in range(num_blocks))

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the blocks."""
        self.check_tokens(tokens)
        for gate, ffn, norm in zip(self.gates, self.ffns, self.norms, strict=True):
            mean = tokens.mean(1, keepdim=True).expand_as(tokens)
            gated = tokens * torch.sigmoid(gate(mean))
            tokens = norm(tokens + ffn(gated))
        return tokens

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the width of a token, which is all that follows from the width of the model."""
        return {"token_dim": max(1, round(width)) if token_dim is None else token_dim}


BACKBONES["gated-mixer"] = GatedMixer


def main() -> None:
    """Train the backbone at a budget, by its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("own-backbone"))
    parser.add_argument("--dataset", type=Path, help="a prepared dataset (default: make a synthetic world)")
    parser.add_argument("--rows", type=int, default=50_000, help="of the synthetic world")
    parser.add_argument("--params", default="60K")
    parser.add_argument("--max-steps", type=int)
    arguments = parser.parse_args()
    dataset = arguments.dataset or arguments.out / "dataset"
    if not dataset.exists():
        prepare("synthetic", dataset, rows=arguments.rows, users=500, items=200)
    recipe = {
        "name": "own-backbone",
        "dataset": str(dataset),
        "model": {"backbone": "GatedMixer", "dense_params": arguments.params, "num_tokens": 4, "embedding_dim": 8},
        "training": {"batch_size": 256, "max_steps": arguments.max_steps},
    }
    run = train(recipe, folder=arguments.out / "run", quiet=True)
    for task, values in run.evaluate("test").items():
        print(f"{task}: AUC {values.auc:.4f}")


if __name__ == "__main__":
    main()
