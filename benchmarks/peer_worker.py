"""One measurement of a peer's public code or of ours, in a process of its own; ``peers.py`` starts it.

It needs torch, and for a training run what the peer's code imports. A peer is imported from its checkout as it is.
The last line of its output is JSON: samples/s, parameters, and for blocks the share of sgemm.

python peer_worker.py blocks CHECKOUT|ours MODEL DIM EXPANSION BATCH PRECISION THREADS
python peer_worker.py training CHECKOUT MODEL DATA SAMPLES BATCH PRECISION THREADS FOLDER
python peer_worker.py training ours MODEL DATA SAMPLES BATCH PRECISION THREADS FOLDER PARAMETERS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

TOKENS, BLOCKS = 16, 2


def product_rate(size: int = 2048) -> float:
    x, y = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / seconds(lambda: x @ y)


def seconds(run: Callable[[], object], repeats: int = 7) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def blocks(checkout: str, model: str, dim: str, expansion: str, batch: str, precision: str) -> dict[str, float]:
    """Forward and backward of two blocks, SwiGLU inside ours and the peer's own FFN inside the peer's.

    bfloat16 is torch's autocast, for both programs alike.
    """
    width, factor, rows = int(dim), int(expansion), int(batch)
    stack: Any
    if checkout == "ours":
        from unimixer.backbones import build_backbone
        from unimixer.environment import keep_freed_memory

        keep_freed_memory()
        options = {"ffn": "swiglu"} if model == "rankmixer" else {}
        stack = build_backbone(
            model, num_tokens=TOKENS, token_dim=width, num_blocks=BLOCKS, expansion=factor, **options
        )
    else:
        sys.path.insert(0, checkout)
        from model_zoo.RankMixer import RankMixerBlock  # type: ignore[import-not-found]
        from model_zoo.UniMixer import UniMixingLiteBlocks  # type: ignore[import-not-found]

        if model == "rankmixer":
            stack = RankMixerBlock(input_dim=width, num_ns_token=TOKENS, num_layers=BLOCKS, expand=factor)
        else:
            sizes = {"token_dim": width, "num_token": TOKENS, "num_layers": BLOCKS, "expand": factor}
            stack = UniMixingLiteBlocks(**sizes, global_rank=16)
    parameters = sum(parameter.numel() for parameter in stack.parameters())
    tokens = torch.randn(rows, TOKENS, width, requires_grad=True)

    def step() -> None:
        stack.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = stack(tokens)
        (output[0] if isinstance(output, tuple) else output).square().mean().backward()

    before = product_rate()
    rate = rows / seconds(step)
    product = (before + product_rate()) / 2
    return {"rate": rate, "parameters": parameters, "share": 6 * parameters * rate / product}


def training(
    checkout: str, model: str, data: str, samples: str, batch: str, precision: str, folder: str, parameters: str = ""
) -> dict[str, float]:
    """Training on the first samples of the KuaiRand sample, without validation; the peer knows float32 alone."""
    if checkout == "ours":
        return our_training(model, data, int(samples), int(batch), precision, Path(folder), int(parameters))
    return peer_training(checkout, model, data, int(samples), int(batch), Path(folder))


def our_training(
    model: str, data: str, samples: int, batch: int, precision: str, folder: Path, parameters: int
) -> dict[str, float]:
    from unimixer.data.dataset import open_dataset
    from unimixer.settings import parse
    from unimixer.training.config import Recipe
    from unimixer.training.model import resolve
    from unimixer.training.train import train

    values = {
        "name": "peers",
        "dataset": data,
        "model": {"backbone": model, "dense_params": parameters},
        "tasks": {"is_click": 1.0},
        "training": {"batch_size": batch, "max_steps": samples // batch, "threads": torch.get_num_threads()}
        | {"eval_interval": 10**9, "precision": precision},
    }
    recipe = resolve(parse(Recipe, values, where="benchmark"), open_dataset(data).transform.spec)
    folder.mkdir(parents=True, exist_ok=True)
    run = train(
        recipe, folder=Path(tempfile.mkdtemp(dir=folder)) / "run", quiet=True
    )  # a round has a folder of its own
    assert run.result is not None
    return {"rate": run.result["samples_per_second"], "parameters": run.result["dense_parameters"]}


def peer_training(checkout: str, model: str, data: str, samples: int, batch: int, folder: Path) -> dict[str, float]:
    """One epoch of the public port, whose tokens are its 40 fields of width 40, with 0.8M dense parameters."""
    import yaml

    name, zoo = {"rankmixer": ("RankMixer", "RankMixer"), "unimixer-lite": ("UniMixerLite", "UniMixer_lite")}[model]
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "peer").mkdir(parents=True, exist_ok=True)  # the peer writes there and makes no folder
    columns = json.loads((Path(data) / "columns.json").read_text(encoding="utf-8"))
    features = [{"name": column, "active": True, "dtype": "str", "type": "categorical"} for column in columns]
    history = {"name": "history", "active": True, "dtype": "str", "type": "sequence", "splitter": "^", "max_len": 50}
    features.append(history | {"share_embedding": "video_id", "feature_encoder": "layers.MaskedAveragePooling()"})
    files = {f"{part}_data": str(Path(data) / f"{part}.csv") for part in ("train", "valid", "test")}
    kept = {"data_root": str(folder / "data"), "data_format": "csv", "min_categr_count": 1, "feature_cols": features}
    dataset = kept | {"label_col": {"name": "label", "dtype": "float"}} | files
    shared = {"num_transformer_layers": 2, "transformer_dropout": 0, "use_pos_embedding": False}
    shared |= {"ffn_in_dim": 40, "ffn_out_dim": 80, "data_block_size": 1000000, "embedding_dim": 16}
    if model == "unimixer-lite":
        shared |= {"block_size": 10, "basis_num": 4, "sinkhorn_iters": 20, "sinkhorn_temperature": 0.2}
    base = {"model_root": str(folder / "checkpoints"), "num_workers": 0, "verbose": 0, "early_stop_patience": 2}
    base |= {"pickle_feature_encoder": True, "save_best_only": True, "eval_steps": None, "debug_mode": False}
    base |= dict.fromkeys(("group_id", "use_features", "feature_specs", "feature_config"))
    own = {"dataset_id": "peer", "model": name, "loss": "binary_crossentropy", "metrics": ["AUC"], "seed": 2026}
    own |= {"task": "binary_classification", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": batch}
    own |= {"epochs": 1, "shuffle": True, "monitor": "AUC", "monitor_mode": "max", "net_dropout": 0}
    own |= {"batch_norm": False, "embedding_regularizer": 0, "net_regularizer": 0}
    written = {"dataset_config": {"peer": dataset}, "model_config": {"Base": base, f"{name}_peer": own | shared}}
    for file, content in written.items():
        (folder / "config" / f"{file}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    sys.path.insert(0, checkout)
    from fuxictr.features import FeatureMap  # type: ignore[import-not-found]
    from fuxictr.preprocess import FeatureProcessor, build_dataset  # type: ignore[import-not-found]
    from fuxictr.pytorch.dataloaders import RankDataLoader  # type: ignore[import-not-found]
    from fuxictr.pytorch.torch_utils import seed_everything  # type: ignore[import-not-found]
    from fuxictr.utils import load_config  # type: ignore[import-not-found]

    settings = load_config(str(folder / "config"), f"{name}_peer") | {"gpu": -1}
    seed_everything(settings["seed"])
    parts = build_dataset(FeatureProcessor(**settings), **settings)
    for part, path in zip(("train", "valid", "test"), parts, strict=True):
        path = Path(path if str(path).endswith(".parquet") else f"{path}.parquet")
        if not path.exists():  # a folder of parts
            path.symlink_to(path.with_suffix("").resolve())
        settings[f"{part}_data"] = str(path)
    settings["data_format"] = "parquet"
    root = Path(settings["data_root"]) / "peer"
    table = FeatureMap("peer", str(root))
    table.load(str(root / "feature_map.json"), settings)
    sys.path.insert(0, str(Path(checkout) / "model_zoo" / zoo))
    import src  # type: ignore[import-not-found]

    ranker = getattr(src, name)(table, **settings)
    dense = sum(p.numel() for key, p in ranker.named_parameters() if "embedding_layer" not in key)
    train, valid = RankDataLoader(table, stage="train", **settings).make_iterator()
    start = time.perf_counter()
    ranker.fit(train, validation_data=valid, **settings)
    middle = time.perf_counter()
    ranker.evaluate(valid)
    elapsed = (middle - start) - (time.perf_counter() - middle)
    return {"rate": samples / elapsed, "parameters": dense}


def main() -> None:
    kind, *arguments = sys.argv[1:]
    torch.manual_seed(0)
    if kind == "blocks":
        *rest, threads = arguments
        torch.set_num_threads(int(threads))
        result = blocks(*rest)
    else:
        checkout, model, data, samples, batch, precision, threads, folder, *parameters = arguments
        torch.set_num_threads(int(threads))
        result = training(checkout, model, data, samples, batch, precision, folder, *parameters)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
