"""``unimixer models``."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit, table

HELP = """List the backbones, or the options of one.

Examples: unimixer models · unimixer models unimixer-lite"""


def models(
    name: Annotated[str | None, typer.Argument(help="A backbone, to see its options.")] = None,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    import torch

    from unimixer.backbones import BACKBONES, build_backbone, count_parameters
    from unimixer.errors import unknown

    if name is not None:
        if name not in BACKBONES:
            raise unknown("model", name, BACKBONES)
        options = {
            key: None if parameter.default is inspect.Parameter.empty else parameter.default
            for key, parameter in BACKBONES[name].options().items()
        }
        summary = inspect.getdoc(BACKBONES[name]) or ""

        def show_options() -> None:
            print(summary, end="\n\n")
            table(
                f"options of {name}",
                ["option", "default"],
                [[k, "" if v is None else repr(v)] for k, v in options.items()],
                left=2,
            )

        emit({"name": name, "options": options}, as_json, show_options)
        return
    rows = []
    for key, backbone in BACKBONES.items():
        with torch.device("meta"):
            built = build_backbone(
                key, num_tokens=16, **({"token_dim": 16} if backbone.default_tokenizer == "field" else {})
            )
        rows.append(
            {
                "name": key,
                "family": backbone.family,
                "tokenizer": backbone.default_tokenizer,
                "readout": backbone.readout,
                "token_dim": built.token_dim,
                "parameters": count_parameters(built),
            }
        )

    def show() -> None:
        table(
            "backbones at their default size, 16 tokens",
            list(rows[0]),
            [[*list(r.values())[:-1], f"{r['parameters']:,}"] for r in rows],
            left=4,
        )

    emit({"models": rows}, as_json, show)
