"""A server that cannot start says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from served import Served

from unimixer.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store", "missing.sqlite"], "missing.sqlite: no such feature store; make one with: unimixer store build"),
        (["--store", "redis://127.0.0.1:1/0"], "redis://127.0.0.1:1/0: the feature store cannot be used now"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:"),
        (["--concurrency", "0"], "serve: concurrency=0: input should be greater than 0"),
        (["--admin-key-file", "missing"], "missing: cannot read the key"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    options: list[str],
    message: str,
    bundles: tuple[Path, Path],
    toy_features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store = [] if "--store" in options else ["--store", str(toy_features)]
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(bundles[0]), "--port", "0", *store, *options])
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_a_tampered_bundle_is_not_served(bundles: tuple[Path, Path], toy_features: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(bundles[0], bad)
    graph = next(bad.glob("*.onnx"))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    served = Served(bad, toy_features)
    assert served.process.wait(60) == 2
    served.__exit__()
    assert "its checksum differs" in "".join(served.other)
    assert "Traceback" not in "".join(served.other)
