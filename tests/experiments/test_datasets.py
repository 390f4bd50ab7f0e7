"""Study files that bring their data along: from raw files to a plan in one command."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from unimixer import prepare
from unimixer.data.dataset import Dataset
from unimixer.data.raw.adapters import ADAPTERS
from unimixer.errors import UnimixerError
from unimixer.experiments import load_study, plan_experiment
from unimixer.experiments.datasets import prepare_missing
from unimixer.experiments.plan import Study
from unimixer.settings import packaged_files, parse

FILES = list(packaged_files("studies").values())


def movielens(folder: Path) -> Path:
    """A small data set in the format of MovieLens 1M."""
    rng = random.Random(0)
    folder.mkdir()
    ratings = [(u, m, rng.randint(1, 5), 1000 + rng.randrange(10**6)) for u in range(1, 31) for m in range(1, 21)]
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in ratings))
    (folder / "users.dat").write_text("".join(f"{u}::{'FM'[u % 2]}::{u % 7}::{u % 5}::1000{u}\n" for u in range(1, 31)))
    films = "".join(f"{m}::Film {m} (19{m + 50})::Action|Drama\n" for m in range(1, 21))
    (folder / "movies.dat").write_text(films, encoding="latin-1")
    return folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_file_names_data_that_can_be_read_and_models_that_exist(path: Path) -> None:
    study = load_study(path)
    assert all(data.source in ADAPTERS for data in study.data)
    labels = {model.label for model in study.models}
    if path.stem == "mixers":
        assert study.base == "rule"
        assert {"rule", "none", "random orthogonal matrix", "Lite, random start, temperature .6"} <= labels
    elif path.stem.startswith("mixers-"):
        assert study.base == "rule"
        assert "Lite, default: a matrix a head" in labels
    elif path.stem == "kuairand-recipe":
        assert study.base == "base"
        assert {"target attention", "Muon", "RankMixer"} <= labels
    elif path.stem == "kuairand-wide-winners":
        assert study.base == "base"
        assert {"Pre-Norm", "Muon", "Muon, Pre-Norm"} <= labels
    elif path.stem == "kuairand-winners":
        assert study.base == "target attention"
        assert {"target attention, SWA", "target attention, EMA 0.99"} <= labels
    elif path.stem == "precision":
        assert study.base == "unimixer-lite"
        assert {"unimixer-lite, bfloat16", "rankmixer, bfloat16"} <= labels
    else:
        assert study.base == "rankmixer"
        assert {"unimixer-lite", "rankmixer, SwiGLU and RMSNorm"} <= labels


def test_a_missing_dataset_is_prepared_once(tmp_path: Path) -> None:
    raw, out = movielens(tmp_path / "ml-1m"), tmp_path / "stores" / "movielens-1m"
    file = next(path for path in FILES if path.stem == "movielens-1m")
    changes = {"data": [{"path": str(out), "source": "movielens-1m", "options": {"threshold": 3}}], "seeds": 1}
    changes |= {"models": ["rankmixer", "unimixer-lite"], "params": ["60K"], "dense_lr": [1e-3]}
    study = load_study(file, changes)
    assert prepare_missing(study.data, raw) == [out]
    assert Dataset(out).summary("train").rows > 0
    assert prepare_missing(study.data, None) == []
    planned = plan_experiment(study, tmp_path / "study")
    assert len(planned.cases) == 2


def test_files_are_asked_for_where_a_dataset_is_missing(tmp_path: Path) -> None:
    values = {"data": [{"path": str(tmp_path / "c"), "source": "criteo"}], "models": ["mlp"], "params": ["1M"]}
    with pytest.raises(UnimixerError, match=r"does not exist; name the files of criteo .*--raw FOLDER"):
        prepare_missing(parse(Study, values, where="study").data)
    values["data"].append({"path": str(tmp_path / "a"), "source": "avazu"})  # type: ignore[attr-defined]
    with pytest.raises(UnimixerError, match=r"--raw is one folder, and .* are both missing"):
        prepare_missing(parse(Study, values, where="study").data, tmp_path)


def test_a_dataset_that_was_made_with_other_options_than_the_study_names_is_refused(tmp_path: Path) -> None:
    raw, out = movielens(tmp_path / "ml-1m"), tmp_path / "store"
    prepare("movielens-1m", out, raw=raw, threshold=3)
    values = {"path": str(out), "source": "movielens-1m", "options": {"threshold": 4}}
    study = {"data": [values], "models": ["mlp"], "params": ["1M"]}
    with pytest.raises(
        UnimixerError, match=r"made with options \{'threshold': 3\}, and the study names \{'threshold': 4\}"
    ):
        prepare_missing(parse(Study, study, where="study").data)
    values["options"] = {"threshold": 3}
    assert prepare_missing(parse(Study, study, where="study").data) == []
