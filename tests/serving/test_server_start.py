"""A server that cannot start says why."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from served import Served

from unimixer.bundles.manifest import NAME, write_manifest
from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.serving.engine import Engine
from unimixer.serving.metrics import Metrics
from unimixer.serving.settings import ServeSettings
from unimixer.serving.stores import open_store


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


def damaged(bundle: Path, bad: Path) -> Path:
    """A bundle whose graph is damaged, with checksums that fit: as a disk or a tool may have written it."""
    shutil.copytree(bundle, bad)
    values = json.loads((bad / NAME).read_text())
    graph = bad / values["graph"]["file"]
    graph.write_bytes(b"\x00" * 1_000)
    (bad / NAME).unlink()
    write_manifest(bad, {name: value for name, value in values.items() if name not in ("format", "version", "files")})
    return bad


def test_a_graph_that_cannot_be_read_is_one_sentence_at_the_start(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path: Path
) -> None:
    served = Served(damaged(bundles[0], tmp_path / "bad"), toy_features)
    assert served.process.wait(60) == 2
    served.__exit__()
    (said,) = [line for line in served.other if line.startswith("error: ")]
    assert str(tmp_path / "bad") in said
    assert "Traceback" not in "".join(served.other)


def test_a_graph_that_cannot_be_read_is_a_refused_swap(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path: Path
) -> None:
    current = tmp_path / "current"
    current.symlink_to(bundles[0])
    with Served(current, toy_features) as served:
        version = served.rank().json["model"]["version"]
        current.unlink()
        current.symlink_to(damaged(bundles[0], tmp_path / "bad"))
        answer = served.admin("reload")
        assert answer.status == 422
        assert str(tmp_path / "bad") in answer.error
        served.process.send_signal(signal.SIGHUP)
        assert served.wait_for("swap refused")["reason"] == answer.error
        assert served.rank().json["model"]["version"] == version
        assert served.metrics()['unimixer_swaps_total{result="refused"}'] == 2
        assert served.other == []


@pytest.mark.parametrize("error", [RuntimeError("no\nsuch op"), MemoryError(), KeyError("graph"), OSError("io")])
def test_whatever_fails_while_a_bundle_is_opened_is_one_sentence(
    error: Exception, toy_features: Path, tmp_path: Path
) -> None:
    def fail(folder: Path, threads: int) -> None:
        raise error

    store, metrics = open_store(str(toy_features)), Metrics()
    engine = Engine(ServeSettings(bundle=tmp_path, store=str(toy_features)), store, fail, metrics)
    with pytest.raises(UnimixerError) as raised:
        engine.load()
    assert str(raised.value).startswith(f"{tmp_path}: the bundle cannot be put in service ({type(error).__name__}")
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("); export it again")
    assert not engine.ready
    engine.close()
    store.close()


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
