"""List the sentence of every error that the package raises, by file: ``python docs/site/errors.py``.

A value that a sentence fills in is shown in braces.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "unimixer"
ERRORS = ("UnimixerError", "StoppedError", "BundleError", "ValueError", "TypeError")
"""Classes whose first argument is a sentence for the user; pydantic turns a ``ValueError`` of a validator into one."""


def sentences(source: Path = SOURCE) -> dict[str, list[str]]:
    """Return the sentences of every file in their order, by the path of the file."""
    by_file = {str(path.relative_to(source)): list(_sentences(path)) for path in sorted(source.rglob("*.py"))}
    return {path: found for path, found in by_file.items() if found}


def _sentences(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "") in ERRORS:
            text = sentence_of(node.args[0])
            if text:
                yield text


def sentence_of(node: ast.expr) -> str:
    """Return the text of an expression, with filled-in values in braces; empty where it has no text of its own."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [sentence_of(part) if isinstance(part, ast.Constant) else _value(part) for part in node.values]
        return "".join(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return sentence_of(node.left) + sentence_of(node.right)
    return ""


def _value(node: ast.expr) -> str:
    return f"{{{ast.unparse(node.value)}}}" if isinstance(node, ast.FormattedValue) else ""


def errors_page() -> str:
    """Write all sentences as a page of the site."""
    parts = [
        "# Errors",
        "Every mistake of a user is one of these sentences, with exit code 2. Values in braces are filled in.",
    ]
    for path, found in sentences().items():
        parts += [f"## {path}", "\n".join(f"- `{text.replace('`', chr(39))}`" for text in found)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for file, texts in sentences().items():
        print(f"\n{file}")
        for text in texts:
            print(f"  {text}")
