import shutil
from pathlib import Path

import pytest

from tests import stubs

ROOT = Path(__file__).parents[1]
PROTOS = ["hangtag/protos/inference.proto", "hangtag/protos/classifier.proto"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of protos/, as the working folder."""
    shutil.copytree(ROOT / "protos", tmp_path / "hangtag/protos", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_stubs_that_fit_pass(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert stubs.main(PROTOS) == 0
    assert capfd.readouterr().err == ""


def test_stubs_that_differ_or_are_missing_are_named(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / "hangtag/protos/classifier_pb2.pyi").unlink()
    proto = checkout / "hangtag/protos/inference.proto"
    proto.write_text(proto.read_text().replace("bool live = 1;", "bool alive = 1;"))
    assert stubs.main(PROTOS) == 1
    named = capfd.readouterr().err
    assert "hangtag/protos/classifier_pb2.pyi is not what" in named
    assert "hangtag/protos/inference_pb2.py is not what" in named
    assert "hangtag/protos/inference_pb2_grpc.py" not in named
    assert "Run 'make proto'" in named
