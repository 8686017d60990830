"""`make stubs` fails on a committed stub that is not what its .proto file generates."""

import shutil
from pathlib import Path

import pytest

from tests.protos import generated_stubs as stubs

PROTOS = ["hangtag/protos/inference.proto", "hangtag/protos/classifier.proto"]


def test_different_and_missing_stubs_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hangtag/protos"
    shutil.copytree(Path(__file__).parents[2] / "protos", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    assert stubs.main(PROTOS) == 0
    (folder / "classifier_pb2.pyi").unlink()
    proto = folder / "inference.proto"
    proto.write_text(proto.read_text().replace("bool live = 1;", "bool alive = 1;"))
    assert stubs.main(PROTOS) == 1
    report = capfd.readouterr().err
    assert {line.split(" is not what")[0] for line in report.splitlines()[:-1]} == {
        "hangtag/protos/classifier_pb2.pyi", "hangtag/protos/inference_pb2.py", "hangtag/protos/inference_pb2.pyi",
    }  # fmt: skip
