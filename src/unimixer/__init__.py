"""Ranking models that scale: UniMixer, UniMixing-Lite and the families they unify, from raw logs to scores.

Everything public is loaded when it is first used, so that ``import unimixer`` costs nothing, and so that ``Ranker``
and the modules below it need torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimixer.api import prepare, train
    from unimixer.backbones import BACKBONES, build_backbone
    from unimixer.data.dataset import Dataset
    from unimixer.data.loader import Loader
    from unimixer.errors import UnimixerError
    from unimixer.features.batch import Batch
    from unimixer.features.spec import FeatureSpec
    from unimixer.predictor import Predictor
    from unimixer.ranker import Ranker
    from unimixer.training.config import Recipe
    from unimixer.training.run import RunFolder

_HOME = {
    "BACKBONES": "unimixer.backbones",
    "Batch": "unimixer.features.batch",
    "FeatureSpec": "unimixer.features.spec",
    "Loader": "unimixer.data.loader",
    "Predictor": "unimixer.predictor",
    "Ranker": "unimixer.ranker",
    "Recipe": "unimixer.training.config",
    "RunFolder": "unimixer.training.run",
    "Dataset": "unimixer.data.dataset",
    "UnimixerError": "unimixer.errors",
    "build_backbone": "unimixer.backbones",
    "prepare": "unimixer.api",
    "train": "unimixer.api",
}

__all__ = [
    "BACKBONES",
    "Batch",
    "Dataset",
    "FeatureSpec",
    "Loader",
    "Predictor",
    "Ranker",
    "Recipe",
    "RunFolder",
    "UnimixerError",
    "build_backbone",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("unimixer")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unimixer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
