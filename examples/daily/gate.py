"""Refuse a model whose validation leaves stated bounds: exit code 3 and one sentence for every value that does.

    python gate.py VALIDATION BOUNDS

VALIDATION is what ``unimixer evaluate RUN --json`` printed. BOUNDS is JSON: the least and the greatest value of metrics
by task, and of the share of unknown values by feature. A value that is missing is refused too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REFUSED = 3


def violations(measured: dict[str, Any], bounds: dict[str, Any]) -> list[str]:
    """List the values that leave their bounds."""
    checks = [
        (f"{name} of {task}", measured["tasks"].get(task, {}).get(name), limits)
        for task, metrics in bounds.get("tasks", {}).items()
        for name, limits in metrics.items()
    ]
    checks += [
        (f"unknown share of {feature}", measured["unknown"].get(feature), limits)
        for feature, limits in bounds.get("unknown", {}).items()
    ]
    return [
        f"{name} is {value}, outside {least} to {greatest}"
        for name, value, (least, greatest) in checks
        if value is None or not least <= value <= greatest
    ]


def main() -> int:
    """Print what is refused."""
    measured, bounds = (Path(name) for name in sys.argv[1:3])
    # the result is the last line, after whatever else was printed
    last = measured.read_text(encoding="utf-8").strip().splitlines()[-1]
    broken = violations(json.loads(last), json.loads(bounds.read_text(encoding="utf-8")))
    for sentence in broken:
        print(sentence)
    return REFUSED if broken else 0


if __name__ == "__main__":
    sys.exit(main())
