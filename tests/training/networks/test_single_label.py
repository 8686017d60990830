"""The single-label networks: their sizes, their initial weights, and what an answer depends on."""

import pytest
import torch
from torch import nn

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, build

pytestmark = pytest.mark.slow

MODELS = [name for name in NETWORKS if name not in MULTI_LABEL_NETWORKS]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lstm", 162_574),
        ("lstm-56", 19_834),
        ("lstm-280", 350_010),
        ("lstm2", 3_277_742),
        ("cnn", 1_413_834),
        ("cnn-small", 137_786),
        ("resnet", 1_940_106),
        ("resnet-28x28", 1_921_418),
        ("cnn_rnn", 562_219),
        ("sigmoids", 201_514),
        ("softmax_ranking", 201_514),
        ("cnn_embedding", 216_042),
    ],
)
def test_parameter_counts_are_the_studys_and_their_teachers(name: str, count: int) -> None:
    assert sum(weights.numel() for weights in build(name).parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_images_become_ten_logits_each_which_depend_on_nothing_else(name: str) -> None:
    """An answer does not depend on the rest of the batch, and depends on dropout only in training."""
    torch.manual_seed(0)
    model, pixels = build(name).eval(), torch.rand(3, 1, 28, 28)
    logits = model(pixels)
    assert logits.shape == (3, 10)
    assert logits.dtype == torch.float32
    assert (logits.sum(dim=1) - 1).abs().max() > 1e-3  # logits, not probabilities
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    alone = torch.cat([model(pixels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(pixels), logits)
    assert not torch.equal(model.train()(pixels), model(pixels))


def test_dropout_rates_are_the_studys() -> None:
    rates = {name: [module.p for module in build(name).modules() if isinstance(module, nn.Dropout)] for name in MODELS}
    assert rates == {
        "lstm": [0.2], "lstm-56": [0.2], "lstm-280": [0.2], "lstm2": [0.2], "cnn": [0.5, 0.5],
        "cnn-small": [0.2], "resnet": [0.3], "resnet-28x28": [0.3],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_an_lstm_reads_rows_from_top_to_bottom(name: str) -> None:
    torch.manual_seed(0)
    model, pixels = build(name).eval(), torch.rand(1, 1, 28, 28)
    assert not torch.allclose(model(pixels), model(pixels.flip(2)), atol=1e-4)
    assert not torch.allclose(model(pixels), model(pixels.transpose(2, 3)), atol=1e-4)
    for row in (0, 27):  # the first and the last row
        changed = pixels.clone()
        changed[0, 0, row] = 0
        assert not torch.allclose(model(pixels), model(changed), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_lstms_start_as_in_keras(name: str) -> None:
    for lstm in [module for module in build(name).modules() if isinstance(module, nn.LSTM)]:
        weights = {key: value.detach() for key, value in lstm.named_parameters()}
        # PyTorch adds two bias vectors, and Keras has one, so only the sum is compared. The gates have the order i, f,
        # g, o.
        bias_i, bias_f, bias_g, bias_o = (weights["bias_ih_l0"] + weights["bias_hh_l0"]).chunk(4)
        assert torch.equal(bias_f, torch.ones(lstm.hidden_size))
        for bias in (bias_i, bias_g, bias_o):
            assert torch.equal(bias, torch.zeros(lstm.hidden_size))
        kernel = weights["weight_hh_l0"]  # [4 * hidden, hidden], orthogonal
        torch.testing.assert_close(kernel.T @ kernel, torch.eye(lstm.hidden_size), rtol=0, atol=1e-4)


def test_kernels_start_glorot_uniform_and_biases_zero() -> None:
    torch.manual_seed(0)
    for name, module in build("cnn").named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        kernel, bias = module.weight.detach(), module.bias
        field = kernel[0, 0].numel()
        bound = (6 / ((kernel.shape[0] + kernel.shape[1]) * field)) ** 0.5
        assert kernel.abs().max() <= bound, name
        assert kernel.abs().max() > 0.95 * bound, name
        assert bias is not None
        assert not bias.any(), name
    lstm = build("lstm").lstm
    assert isinstance(lstm, nn.LSTM)
    kernel = dict(lstm.named_parameters())["weight_ih_l0"].detach()
    bound = (6 / (4 * 186 + 28)) ** 0.5
    assert 0.95 * bound < kernel.abs().max() <= bound
