"""Each precision of a run is published under its own name, with its own proof."""

import json
from pathlib import Path

import pytest

from hangtag.export import exporter
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file.precision import convert
from hangtag.export.published import Published
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests.export import label_sets
from tests.export.runs import contents

pytestmark = pytest.mark.slow


def export(run: Run, models: Path, garments: Split, precision: str) -> Published:
    return exporter.export(run, models, garments, to=precision, quantize_on=data.load_test().images[-96:])


def test_precisions_are_published_and_served_as_models_of_their_own(run: Run, garments: Split, tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        published = export(run, tmp_path, garments, precision)
        assert published.folder == tmp_path / f"lstm-{precision}/1"
        metadata = Runtime(published.folder / "model.onnx", provider="cpu").signature.metadata
        assert metadata == published.metadata
        assert metadata["precision"] == precision
        gate = json.loads(metadata["gate"])
        assert gate["precision"] == precision
        assert gate["agreement"]["agreement"] >= gate["agreement"]["least_agreement"]
        assert gate["batching"]["other_top_label"] == 0
        assert 1e-4 < max(gate["parity"]["max_logit_difference"]["test"].values()) <= gate["parity"]["limit"]
    config = ServerConfig(models=tmp_path, port=0, provider="cpu")
    with Server(config) as server, Client(server.address, timeout=60) as client:
        answers = {name: client.infer(name, {"image": garments.images[:20]}) for name in client.models()}
    assert sorted(answers) == ["lstm-fp16", "lstm-int8"]
    assert (answers["lstm-fp16"]["logits"].argmax(axis=1) == answers["lstm-int8"]["logits"].argmax(axis=1)).all()


def test_a_conversion_that_loses_too_much_is_refused(
    run: Run, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that loses half of the recurrent weights."""

    def lossy(model: object, precision: str, calibration: object) -> object:
        converted = convert(model, precision, calibration)  # type: ignore[arg-type]
        (kernel,) = [tensor for tensor in converted.graph.initializer if tensor.name.endswith("recurrent_quantized")]
        kernel.raw_data = kernel.raw_data[: len(kernel.raw_data) // 2] + bytes(len(kernel.raw_data) // 2)
        return converted

    monkeypatch.setattr("hangtag.export.file.precision.convert", lossy)
    before = contents(tmp_path)
    with pytest.raises(GateError, match=r"^parity: batch 1: logits differ .* worst at test image \d\. Nothing was pub"):
        export(run, tmp_path / "models", garments, "int8")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_sets_of_labels_are_published_in_fp32_only(precision: str, garments: Split, tmp_path: Path) -> None:
    network = label_sets.decisive_scores("sigmoids", garments)
    run = label_sets.finished(tmp_path / "run", "sigmoids", network)
    with pytest.raises(ExportError, match=rf"published in fp32 only, not in {precision}"):
        export(run, tmp_path / "models", garments, precision)
    assert not (tmp_path / "models").exists()
