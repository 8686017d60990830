"""The networks for one label: their sizes, their first weights, and what their answers depend on."""

import pytest
import torch
from torch import nn

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, build
from hangtag.training.networks.inference import predict
from hangtag.training.networks.single_label import parameter_count
from tests.kit import garments

pytestmark = pytest.mark.slow

MODELS = [name for name in NETWORKS if name not in MULTI_LABEL_NETWORKS]


@pytest.mark.parametrize(
    ("name", "count"),
    [("lstm", 162_574), ("lstm-56", 19_834), ("lstm-280", 350_010), ("lstm2", 3_277_742), ("cnn", 1_413_834)],
)
def test_parameter_counts_are_the_studys(name: str, count: int) -> None:
    assert parameter_count(build(name)) == count


def test_the_networks_are_the_studys_and_their_teachers() -> None:
    assert list(MODELS) == ["lstm", "lstm-56", "lstm-280", "lstm2", "cnn", "resnet", "resnet-28x28"]
    with pytest.raises(KeyError):
        build("mlp")


def test_networks_for_several_labels_have_the_same_encoder() -> None:
    networks = {model: build(model) for model in MULTI_LABEL_NETWORKS}
    sizes = {
        parameter_count(module)
        for network in networks.values()
        for name, module in network.named_modules()
        if name in ("encoder", "0")
    }
    assert len(sizes) == 1
    assert len({parameter_count(build(model, 20)) - parameter_count(networks[model]) for model in networks}) > 1


@pytest.mark.parametrize(("name", "count", "size"), [("resnet", 1_940_106, 14), ("resnet-28x28", 1_921_418, 28)])
def test_the_teachers_differ_in_the_resolution_of_their_stages(name: str, count: int, size: int) -> None:
    model = build(name)
    assert parameter_count(model) == count
    seen: list[torch.Size] = []
    for module in model.modules():
        if type(module).__name__ == "_Residual":
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1:]))
    model(torch.rand(2, 28, 28))
    assert [tuple(shape) for shape in seen] == [
        (64, size, size), (128, size // 2, size // 2), (256, size // 4, size // 4)
    ]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_images_become_ten_logits_each(name: str, batch: int) -> None:
    logits = build(name).eval()(torch.rand(batch, 28, 28))
    assert logits.shape == (batch, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert (logits.sum(dim=1) - 1).abs().max() > 1e-3  # logits, not probabilities


@pytest.mark.parametrize("name", MODELS)
def test_logits_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    torch.manual_seed(0)
    model, pixels = build(name).eval(), torch.rand(3, 28, 28)
    together = model(pixels)
    alone = torch.cat([model(pixels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_pixels_are_divided_by_255_and_batches_make_no_difference() -> None:
    model, images = build("lstm").train(), garments.whole().test.images[:20]
    logits = predict(model, images)
    assert (logits.shape, logits.dtype.name) == ((20, 10), "float32")
    assert not model.training
    with torch.no_grad():
        expected = model(torch.tensor(images) / 255)
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(predict(model, images, batch_size=7)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    model, pixels = build(name), torch.rand(2, 28, 28)
    assert not torch.equal(model.train()(pixels), model(pixels))
    assert torch.equal(model.eval()(pixels), model(pixels))


def test_dropout_rates_are_the_studys() -> None:
    rates = {name: [module.p for module in build(name).modules() if isinstance(module, nn.Dropout)] for name in MODELS}
    assert rates == {
        "lstm": [0.2], "lstm-56": [0.2], "lstm-280": [0.2], "lstm2": [0.2], "cnn": [0.5, 0.5],
        "resnet": [0.3], "resnet-28x28": [0.3],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_an_lstm_reads_rows_from_top_to_bottom(name: str) -> None:
    torch.manual_seed(0)
    model, pixels = build(name).eval(), torch.rand(1, 28, 28)
    assert not torch.allclose(model(pixels), model(pixels.flip(1)), atol=1e-4)
    assert not torch.allclose(model(pixels), model(pixels.transpose(1, 2)), atol=1e-4)
    for row in (0, 27):  # from the first to the last
        changed = pixels.clone()
        changed[0, row] = 0
        assert not torch.allclose(model(pixels), model(changed), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_lstm_biases_start_as_in_keras(name: str) -> None:
    for lstm in [module for module in build(name).modules() if isinstance(module, nn.LSTM)]:
        weights = dict(lstm.named_parameters())
        # Keras has one bias vector, so what counts is the sum of PyTorch's two; gates in the order i, f, g, o.
        bias_i, bias_f, bias_g, bias_o = (weights["bias_ih_l0"] + weights["bias_hh_l0"]).detach().chunk(4)
        assert torch.equal(bias_f, torch.ones(lstm.hidden_size))
        for bias in (bias_i, bias_g, bias_o):
            assert torch.equal(bias, torch.zeros(lstm.hidden_size))


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_recurrent_kernels_start_orthogonal(name: str) -> None:
    for lstm in [module for module in build(name).modules() if isinstance(module, nn.LSTM)]:
        kernel = dict(lstm.named_parameters())["weight_hh_l0"].detach()  # [4 * hidden, hidden]
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
