"""A server whose bundles come as deltas: nothing is lost, what does not follow never reaches it, and it can go back."""

from __future__ import annotations

from pathlib import Path

import pytest
from load import Load
from served import Served
from test_lifecycle import link

from unimixer.bundles import apply_delta
from unimixer.bundles.delta import write_delta
from unimixer.errors import UnimixerError


def test_deltas_are_taken_under_load_and_taken_back(bundles: tuple[Path, Path], features: Path, tmp_path: Path) -> None:
    for name, pair in (("there", bundles), ("back", bundles[::-1])):
        (tmp_path / name).mkdir()
        write_delta(*pair, tmp_path / name)
    current, before = tmp_path / "current", bundles[0]
    link(current, before)
    with Served(current, features) as served:
        versions = [served.wait_for("ready")["model_version"]]
        load = Load(served)
        for number, delta in enumerate(("there", "back", "there")):
            made = tmp_path / f"bundle-{number}"
            versions.append(apply_delta(current, tmp_path / delta, made)["version"])
            with pytest.raises(UnimixerError, match="in the order of their days"):
                apply_delta(made, tmp_path / delta, tmp_path / "twice")
            link(current, made)
            assert served.admin("reload").json["model_version"] == versions[-1]
            load.wait_for(lambda: bool(load.answers) and load.answers[-1][1] == versions[-1])
        link(current, before)
        assert served.admin("reload").json["model_version"] == versions[0]
        load.wait_for(lambda: load.answers[-1][1] == versions[0])
        load.stop()
    assert load.failures == []
    assert {status for status, _, _ in load.answers} == {200}
    assert versions[0] == versions[2] != versions[1] == versions[3]
