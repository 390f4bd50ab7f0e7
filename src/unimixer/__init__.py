"""Ranking models that scale: UniMixer, UniMixing-Lite and the families they unify, from raw logs to scores.

Everything public is loaded when it is first used, so that ``import unimixer`` costs nothing, and so that ``Ranker``,
``create_model`` and the modules below them need torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimixer.api import Run, evaluate, export, predict, prepare, train
    from unimixer.errors import UnimixerError
    from unimixer.models import create_model
    from unimixer.predictor import Predictor
    from unimixer.ranker import Ranker

_HOME = {
    "Predictor": "unimixer.predictor",
    "Ranker": "unimixer.ranker",
    "Run": "unimixer.api",
    "UnimixerError": "unimixer.errors",
    "create_model": "unimixer.models",
    "evaluate": "unimixer.api",
    "export": "unimixer.api",
    "predict": "unimixer.api",
    "prepare": "unimixer.api",
    "train": "unimixer.api",
}

__all__ = [
    "Predictor",
    "Ranker",
    "Run",
    "UnimixerError",
    "create_model",
    "evaluate",
    "export",
    "predict",
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
