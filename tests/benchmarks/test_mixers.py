"""The table of all mixings: a tiny study from the command to the recorded rows."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import mixers
from unimixer.errors import UnimixerError
from unimixer.experiments.plan import load_study

LITE = "Lite, default: a matrix a head"


def tiny_study(folder: Path) -> Path:
    """The packaged study with three mixings, one of which searches its rate, on a world of a few rows."""
    study = load_study(mixers.STUDY).model_dump(mode="json", exclude_defaults=True)
    options = {**study["data"][0]["options"], "rows": 1500, "validation_rows": 200, "test_rows": 300}
    study["data"] = [{**study["data"][0], "path": str(folder / "world"), "options": options}]
    study["models"], study["widths"] = study["models"][:3], [16]
    study["recipe"] |= {"training.batch_size": 256}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["mixers.py", *map(str, arguments)])
    mixers.main()


@pytest.mark.slow
def test_a_study_is_trained_printed_and_recorded_by_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixers, "RESULTS", tmp_path / "mixers.csv")
    asked = ("--study", tiny_study(tmp_path), "--seeds", 2, "--jobs", 1, "--no-latency", "--record")
    run(monkeypatch, *asked, "--out", tmp_path / "study", "--steps", 2)
    printed = capsys.readouterr().out
    assert "8 of 8 runs to train" in printed
    assert "sparse, width 16, 300 test rows" in printed
    # rows of another length stay, those of the same one are replaced
    mixers.RESULTS.write_text(mixers.RESULTS.read_text(encoding="utf-8").replace(",512,", ",999,"), encoding="utf-8")
    for _ in range(2):
        run(monkeypatch, *asked, "--out", tmp_path / "study", "--steps", 2, "--report-only")
    capsys.readouterr()
    with pytest.raises(SystemExit):  # recorded differences are all to one base
        run(monkeypatch, *asked, "--out", tmp_path / "study", "--steps", 2, "--report-only", "--base", LITE)
    assert "leave --base out" in capsys.readouterr().err
    run(monkeypatch, *asked[:-1], "--out", tmp_path / "study", "--steps", 2, "--report-only", "--base", LITE)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| rule"))
    assert re.search(r"\| [+-]\d+\.\d% \|", line)  # the rule against another mixing
    rows = list(csv.DictReader(mixers.RESULTS.read_text(encoding="utf-8").splitlines()))
    labels = [model.label for model in load_study(mixers.STUDY).models[:3]]
    assert [(row["rows"], row["mixing"]) for row in rows] == [(n, label) for n in ("999", "512") for label in labels]
    base, lite, searched = rows[3:]
    assert float(lite["difference"]) == pytest.approx(float(lite["excess"]) - float(base["excess"]), abs=1e-5)
    run(monkeypatch, *asked[:-1], "--out", tmp_path / "study", "--steps", 2, "--report-only", "--rates")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sparse")]
    assert re.findall(r"([\d.]+): 0\.\d{4}", line) == ["0.0017", "0.0051", "0.015"]
    assert f"**{float(searched['mixing_lr']):g}: " in line  # the chosen one


def test_differences_are_drawn_over_rows_where_there_are_three_lengths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mixers, "RESULTS", tmp_path / "mixers.csv")
    lines = ["world,mixing,rows,difference,low,high,relative", "sparse,rule,5,,,,"]
    lines += [f"sparse,lite,{rows},-0.01,-0.02,0.01,-0.1" for rows in (10, 100)]
    mixers.RESULTS.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UnimixerError, match="no mixing has three lengths of a log"):
        mixers.draw_by_rows(tmp_path / "rows.png")
    mixers.RESULTS.write_text("\n".join([*lines, lines[-1].replace("100", "1000")]), encoding="utf-8")
    mixers.draw_by_rows(tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_every_learned_mixing_has_rates_to_choose_from_and_others_have_one() -> None:
    study = load_study(mixers.STUDY)
    assert study.base == "rule"
    for model in study.models:
        fixed = mixers.MIXING_LR in model.recipe
        assert fixed == model.label.startswith("Lite, default")  # what users get, and the control that never moves
        assert len(study.grid(model, mixing=not fixed)) == (1 if fixed else len(model.mixing_lr or study.mixing_lr))


def test_a_mixing_that_the_study_lacks_is_named() -> None:
    with pytest.raises(UnimixerError, match="the study has no mixing 'ruel'; it has 'rule'"):
        mixers.chosen_models(load_study(mixers.STUDY), ["ruel"])
