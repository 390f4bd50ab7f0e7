"""``unimixer convert``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.backbones.registry import backbone_name
from unimixer.cli.output import Data, Json, emit, takes
from unimixer.errors import UnimixerError
from unimixer.io import write_text
from unimixer.settings import dump_yaml
from unimixer.training.convert import conversion_change, converted_recipe
from unimixer.training.run import RunFolder, dataset_of


@dataclass(frozen=True)
class ConvertOptions:
    """Choose the run to convert, the model to convert to, and the recipe to write."""

    run: Annotated[Path, typer.Argument(help="A finished run.")]
    to: Annotated[str, typer.Option("--to", help="unimixer or unimixer-lite.")]
    out: Annotated[Path | None, typer.Option("--out", help="Recipe to write (default: NAME-as-MODEL.yaml here).")] = (
        None
    )
    split: Annotated[str, typer.Option("--split", help="Rows whose scores are compared.")] = "validation"
    data: Data = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the recipe if it exists.")] = False
    as_json: Json = False


@takes(ConvertOptions)
def convert(options: ConvertOptions) -> None:
    """Write the recipe of another model that starts with the scores of a finished run, and say how far they move.

    A RankMixer becomes a UniMixer or UniMixing-Lite that starts from the rule; a UniMixing-Lite becomes a full
    UniMixer.

    Example: unimixer convert RUN --to unimixer-lite, then unimixer train RECIPE --warm-start RUN
    """
    source = RunFolder(options.run)
    recipe = converted_recipe(source, backbone_name(options.to))
    path = options.out or Path(f"{recipe.name}.yaml")
    if path.exists() and not options.overwrite:
        raise UnimixerError(f"{path} exists; choose another --out, or say --overwrite")
    change = conversion_change(source, recipe, dataset_of(source, options.data), options.split)
    write_text(path, dump_yaml(recipe))
    command = f"unimixer train {path} --warm-start {options.run}"

    def show() -> None:
        logit, probability = change.max_logit_difference, change.max_probability_difference
        print(
            f"{path}: scores of {change.rows:,} {options.split} rows move by at most {logit:.2g} in the logit, "
            f"{probability:.2g} in the probability\ntrain on with: {command}"
        )

    emit({"recipe": str(path), "change": asdict(change), "next": command}, options.as_json, show)
