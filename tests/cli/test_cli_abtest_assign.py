"""``unimixer abtest assign`` gives what the server gives, also after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cli_runner import Done

SPECIFICATION = """
name: mixer
arms: {control: {}, mixer: {}}
start: 2026-03-01
end: 2026-04-01
overrides: {7: mixer}
"""


def test_a_stopped_experiment_gives_no_arm_not_even_by_an_override(cli: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "mixer.yaml").write_text(SPECIFICATION)
    running = cli("abtest", "assign", "mixer.yaml", "7", "8", "--json").json["units"]
    assert running["7"] == {"arm": "mixer", "reason": "override", "propensity": 1.0}
    assert running["8"]["reason"] == "assigned"
    (tmp_path / "mixer.yaml.stopped").write_text(json.dumps({"experiment": "mixer"}))
    stopped = cli("abtest", "assign", "mixer.yaml", "7", "8", "--json").json["units"]
    assert stopped == {unit: {"arm": None, "reason": "stopped", "propensity": 0.0} for unit in ("7", "8")}
    (tmp_path / "mixer.yaml.stopped").write_text(json.dumps({"experiment": "other"}))
    done = cli("abtest", "assign", "mixer.yaml", "7")
    assert done.code == 2
    assert "it says that experiment 'other' was stopped, but mixer.yaml now specifies 'mixer'" in done.err
