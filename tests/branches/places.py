"""Lines and branches of the library that processes take: a place is one byte of a file that all processes map.

A place calls this module once in a process (``sys.monitoring``, from Python 3.12 on), and torch's own code never does,
so tests take no longer than usual. A process that is killed loses nothing. SlipCover gives each branch its own line.
"""

from __future__ import annotations

import ast
import marshal
import mmap
import os
import sys
import zlib
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"
VARIABLE = "UNIMIXER_BRANCHES"
"""The folder of a part of the tests; without it nothing is measured."""

_Taken = tuple[mmap.mmap, dict[int, int]]
_taken: dict[str, _Taken] = {}


def begin() -> None:
    """Measure the library in this process if the variable names a folder."""
    if folder := os.environ.get(VARIABLE):
        sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "unimixer")
        sys.monitoring.register_callback(sys.monitoring.COVERAGE_ID, sys.monitoring.events.LINE, _take)
        sys.meta_path.insert(0, _Finder(Path(folder)))


def marked(source: Path, cache: Path) -> tuple[CodeType, dict[int, int], str]:
    """Compile a file with marks of its branches.

    Returns:
        the code, the byte of each line number, and a name that changes with the text.
    """
    text = source.read_bytes()
    name = f"{'.'.join(source.relative_to(SOURCES).with_suffix('').parts)}-{zlib.crc32(text):08x}"
    try:
        code, positions = marshal.loads((cache / name).read_bytes())
    except FileNotFoundError:
        code, positions = _compiled(text, source)
        cache.mkdir(parents=True, exist_ok=True)
        (whole := cache / f"{name}.{os.getpid()}").write_bytes(marshal.dumps((code, positions)))
        whole.replace(cache / name)
    return code, positions, name


def _compiled(text: bytes, source: Path) -> tuple[CodeType, dict[int, int]]:
    from slipcover.branch import preinstrument
    from slipcover.slipcover import Slipcover, findlinestarts

    tree = ast.parse(text)
    unmeasured = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for line in range(node.lineno, node.end_lineno + 1)
    }
    code = compile(preinstrument(tree), str(source), "exec", dont_inherit=True)
    lines = set(Slipcover.lines_from_code(code))
    for part in _parts(code):
        lines.update(line for _, line in findlinestarts(part) if is_branch(line))
    kept = sorted(line for line in lines if (branch(line)[0] if is_branch(line) else line) not in unmeasured)
    return code, {line: position for position, line in enumerate(kept)}


def is_branch(line: int) -> bool:
    """Tell whether a line number is that of a branch."""
    return line >= 1 << 30


def branch(line: int) -> tuple[int, int]:
    """Return the lines that a branch leads from and to; a way out of a function leads to 0."""
    from slipcover.branch import decode_branch

    return decode_branch(line)


def _parts(code: CodeType) -> list[CodeType]:
    """List a code object and those inside it."""
    return [code, *(part for one in code.co_consts if isinstance(one, CodeType) for part in _parts(one))]


def _take(code: CodeType, line: int) -> object:
    taken, positions = _taken[code.co_filename]
    if (position := positions.get(line)) is not None:
        taken[position] = 1
    return sys.monitoring.DISABLE


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "unimixer":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        if not Path(spec.loader.path).is_relative_to(SOURCES):  # the package as a test installed it
            return spec
        spec.loader = _Loader(fullname, spec.loader.path)
        spec.loader.folder = self.folder
        return spec


class _Loader(SourceFileLoader):
    folder: Path

    def get_code(self, fullname: str) -> CodeType:
        """Return the code whose places are noted in the part's folder."""
        code, positions, name = marked(Path(self.path), self.folder.parent / "code")
        if positions:
            with (self.folder / name).open("a+b") as file:
                file.truncate(len(positions))
                _taken[code.co_filename] = mmap.mmap(file.fileno(), len(positions)), positions
            for part in _parts(code):
                sys.monitoring.set_local_events(sys.monitoring.COVERAGE_ID, part, sys.monitoring.events.LINE)
        return code
