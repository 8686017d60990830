"""`python -m studies http run`: which systems it measures, and what it records."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import click
import httpx2
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from hangtag.serving.model_repository import serving_versions
from studies import results
from studies.http.run import main
from studies.http.systems import fastapi, launches, requests
from studies.page import ROOT
from studies.server.process import served
from tests.kit import onnx_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)"),
]

MODELS = ROOT / "models"


def test_binary_and_json_requests_and_calls_over_grpc_are_measured(lstm_and_cnn: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    options = ["--only", "http,json,grpc", "--rounds", "1", "--seconds", "0.05"]
    result = CliRunner().invoke(
        main, [*options, "--models", str(lstm_and_cnn), "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert list(lines) == ["conditions", "round 1"]
    assert "--only http,json,grpc" in lines["conditions"]["command"]
    for system in ("http", "json", "grpc"):
        loads = lines["round 1"][system]["lstm"]
        assert list(loads) == ["1", "4", "16", "64"]
        assert all(
            figures["samples_per_s"] > 10 and 0 < figures["p50_ms"] <= figures["p99_ms"] for figures in loads.values()
        )
    assert "lstm, 64 in flight, images/s http ≥ 1.6 x fastapi not measured" in " ".join(result.output.split())


def test_the_minimal_server_answers_with_onnx_runtimes_values_in_the_clients_form() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(served(launches(["minimal"], MODELS, stack)["minimal"]))
        sent = requests("minimal", server)
        headers = dict(header.split(": ", 1) for header in sent.headers)
        answers = [httpx2.post(sent.url, content=sent.body, headers=headers) for _ in range(2)]
    (path,) = [file.path for file in serving_versions(MODELS) if file.name == "lstm"]
    image = np.frombuffer(sent.body[-784:], np.uint8).reshape(1, 28, 28)
    expected = onnxruntime.InferenceSession(path).run(None, {"image": image})
    for answer in answers:
        length = int(answer.headers["inference-header-content-length"])
        for output, array in zip(json.loads(answer.content[:length])["outputs"], expected, strict=True):
            assert output["shape"] == [*array.shape]
            assert output["parameters"]["binary_data_size"] == array.nbytes
        values = np.frombuffer(answer.content[length:], np.float32)
        np.testing.assert_allclose(values, np.concatenate(expected, axis=1)[0], rtol=1e-4, atol=1e-4)


def test_without_fastapi_the_error_says_how_to_install_it(lstm_and_cnn: Path, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"uvicorn is missing\. Run 'make fastapi'"):
        fastapi(lstm_and_cnn, tmp_path)


def test_a_repository_without_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uvicorn").touch()
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    with pytest.raises(click.ClickException, match="has no model lstm"):
        fastapi(tmp_path / "models", tmp_path)
