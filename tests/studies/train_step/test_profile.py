"""The LSTM by hand is the same as PyTorch's, and the profile runs every way with real steps."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16
from studies import results
from studies.train_step import batch, lstm_ways, profile, report
from studies.train_step.one_product import OneProductLstm

pytestmark = pytest.mark.slow


def test_the_lstm_by_hand_has_the_outputs_and_gradients_of_pytorchs() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(7, 11, batch_first=True)
    images, direction = torch.rand(5, 6, 7), torch.randn(5, 11)
    outputs, _ = lstm(images)
    (outputs[:, -1] * direction).sum().backward()
    expected = [weights.grad for weights in lstm.parameters()]
    lstm.zero_grad()
    across, onward, *biases = lstm.parameters()
    hidden = OneProductLstm.apply(images, across, onward, sum(biases))
    torch.testing.assert_close(hidden, outputs[:, -1])
    (hidden * direction).sum().backward()
    torch.testing.assert_close([weights.grad for weights in lstm.parameters()], expected)


def test_the_time_steps_written_out_are_the_network() -> None:
    trained, images = lstm_ways.network().eval(), torch.rand(3, 28, 28)
    weights, classifier = list(trained.lstm.parameters()), list(trained.classifier.parameters())
    torch.testing.assert_close(lstm_ways.written_out(images, weights, classifier, dropout=0), trained(images))


# PyTorch's compiler imports functions that PyTorch itself deprecates, and looks at the gradients of all tensors.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_time_steps_train() -> None:
    """Of two, since the compiler takes minutes for 28."""
    torch.manual_seed(0)
    step = lstm_ways.compiled_recurrence(lstm_ways.Batch(torch.rand(4, 2, 28), torch.arange(4), torch.float32))
    step()
    step()


# PyTorch's compiler imports functions that PyTorch itself deprecates, and looks at the gradients of all tensors.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_profile_runs_every_way_and_the_page_shows_it(tmp_path: Path) -> None:
    if not cpu_computes_lstms_in_bf16():
        pytest.skip("this CPU computes no LSTM in bfloat16")
    threads, out = torch.get_num_threads(), tmp_path / "profile.jsonl"
    try:
        result = CliRunner().invoke(profile.main, ["--repeats", "1", "--out", str(out)], catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    page = report.profile_part(out)
    for text in (result.output, page):
        assert "aten::mkldnn_rnn_layer_backward" in text
        assert "32 x 186 x 744" in text
    for way in lstm_ways.ways(torch.bfloat16):
        assert way in result.output
        assert f"| {way} | " in page


def test_a_larger_batch_trains_the_same_network_and_the_page_shows_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SETTINGS", ((32, 1e-3), (128, 2e-3)))
    out = tmp_path / "batch.jsonl"
    arguments = ["--seeds", "2", "--epochs", "1", "--limit", "300", "--out", str(out)]
    result = CliRunner().invoke(batch.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert list(lines)[1:] == ["32 at 0.001", "128 at 0.002"]
    assert all(len(line["test_accuracy"]) == 2 for name, line in lines.items() if name != "conditions")
    assert "| 128 | 0.002 | " in report.batch_part(out)
