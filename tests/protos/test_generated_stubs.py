"""The check of the generated stubs reports every stub that differs or is missing."""

import shutil
from pathlib import Path

import pytest

from tests.protos import generated_stubs as stubs

ROOT = Path(__file__).parents[2]
PROTOS = ["hangtag/protos/inference.proto", "hangtag/protos/classifier.proto"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of protos/ in the working directory."""
    shutil.copytree(ROOT / "protos", tmp_path / "hangtag/protos", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_current_stubs_pass(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert stubs.main(PROTOS) == 0
    assert capfd.readouterr().err == ""


def test_different_and_missing_stubs_are_reported(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / "hangtag/protos/classifier_pb2.pyi").unlink()
    proto = checkout / "hangtag/protos/inference.proto"
    proto.write_text(proto.read_text().replace("bool live = 1;", "bool alive = 1;"))
    assert stubs.main(PROTOS) == 1
    report = capfd.readouterr().err
    assert "hangtag/protos/classifier_pb2.pyi is not what" in report
    assert "hangtag/protos/inference_pb2.py is not what" in report
    assert "hangtag/protos/inference_pb2_grpc.py" not in report
    assert "Run 'make proto'" in report
