"""The house: imports point one way, and files stay small."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "unimixer"
ORDER = (
    *("errors", "refusals", "io", "allocator", "environment", "caller", "progress", "settings"),
    *("ops", "mixing", "blocks", "backbones", "features", "ranker"),
    *("metrics", "workers", "data", "training", "predictor", "evaluation", "profiling", "export", "inspection"),
    *("diagnosis", "api", "serving", "bench", "experiments", "analysis", "report", "cli"),
)
"""A module may import what stands before it, and what stands in its own room."""


def room(module: str) -> str:
    return module.removeprefix("unimixer.").split(".")[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "unimixer" else set()
            found |= inner or {node.module}
    return {name for name in found if name.startswith("unimixer.")}


def test_imports_point_one_way() -> None:
    for path in SOURCE.rglob("*.py"):
        own = room(".".join(("unimixer", *path.relative_to(SOURCE).with_suffix("").parts)))
        if own in ("__init__", "__main__"):
            continue
        assert own in ORDER, f"{path.name}: give the room {own!r} its place in ORDER"
        for name in imports(path):
            assert ORDER.index(room(name)) <= ORDER.index(own), f"{path.relative_to(SOURCE)} imports {name}"


def test_a_file_has_one_subject() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 320} == {}
