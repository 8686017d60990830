import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from tests.training.configs import OnStep, figures, make_config, same_weights, weights
from training import datasets, trainer
from training.batch_norm import Normalised
from training.cli import train
from training.config import RunConfig
from training.data import LABELS, FashionMnist
from training.errors import DataNotFoundError, DivergedError, RunMismatchError
from training.models import parameter_count
from training.multi_label.cnn_rnn import MAX_LABELS, CnnRnn
from training.multi_label.data import MultiLabelData, MultiLabelSplit
from training.multi_label.metrics import decide, evaluate
from training.multi_label.objectives import OBJECTIVES, LabelPaths, Sigmoids, SoftmaxRanking
from training.multi_label.outfits import SIZES, make_split, together
from training.multi_label.task import MultiLabel
from training.recipes import MULTI_LABEL, MULTI_LABEL_MODELS, STUDY, default_recipe, recipe_for
from training.run import Run
from training.single_label import SingleLabel
from training.task import build_task
from training.watch import Progress, Watch

CPU = torch.device("cpu")
LOOKING_AWAY = Watch()
MARK, NONE = 4, -100


def label_sets(*sets: Sequence[int], labels: int = 4) -> Tensor:
    return torch.tensor([[label in chosen for label in range(labels)] for chosen in sets])


def config_of(model: str, *, epochs: int = 2, limit: int | None = None, learning_rate: float = 2e-3) -> RunConfig:
    recipe = replace(MULTI_LABEL, name="tiny", epochs=epochs, batch_size=32, learning_rate=learning_rate)
    return replace(make_config(model), recipe=recipe, limit=limit, dataset="outfits")


@pytest.fixture(scope="module")
def outfits(whole: FashionMnist) -> MultiLabelData:
    train, validation, test = (
        make_split(together(), garments, (0, number), count)
        for number, (garments, count) in enumerate([(whole.train, 96), (whole.validation, 40), (whole.test, 40)])
    )
    return MultiLabelData("outfits", LABELS, train, validation, test, source="", digest="")


@pytest.fixture(scope="module")
def plain(whole: FashionMnist) -> MultiLabelData:
    """Four looks that can be told from where two bright bars lie: learned in seconds."""
    rng = np.random.default_rng(0)
    looks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]], np.bool_)

    def split(count: int) -> MultiLabelSplit:
        labels = looks[rng.integers(4, size=count)]
        images = rng.integers(0, 30, (count, 64, 64), dtype=np.uint8)
        for index, label in np.argwhere(labels):
            images[index, :, 16 * label : 16 * label + 12] += np.uint8(150)
        return MultiLabelSplit(images, labels)

    return MultiLabelData("bars", ("a", "b", "c", "d"), split(512), split(100), split(100), source="", digest="")


# Paths and losses


def test_a_label_set_is_a_path_commonest_first_then_the_mark_then_nothing() -> None:
    paths = LabelPaths(torch.tensor([2, 0, 3, 1])).paths(label_sets([0, 1, 2], [3], [], [0, 1, 2, 3]))
    assert paths.tolist() == [
        [2, 0, 1, MARK, NONE],
        [3, MARK, NONE, NONE, NONE],
        [MARK, NONE, NONE, NONE, NONE],
        [2, 0, 3, 1, MARK],
    ]


def test_of_a_set_too_large_for_a_path_the_rarest_labels_are_left_out() -> None:
    paths = LabelPaths(torch.arange(8)).paths(label_sets(range(8), labels=8))
    assert paths.tolist() == [[*range(MAX_LABELS), 8]]


def test_the_loss_of_paths_is_the_cross_entropy_per_step_with_the_labels_before_it_read() -> None:
    torch.manual_seed(0)
    objective = LabelPaths(torch.tensor([2, 0, 3, 1]))
    network, pixels = objective.network(), torch.rand(2, 64, 64)
    network.eval()
    with torch.no_grad():
        outcome = objective.step(network, pixels, label_sets([0, 2], [3]), smoothing=0)
        first = network(pixels[:1], torch.tensor([[MARK, 2, 0]])).log_softmax(dim=2)[0]
        second = network(pixels[1:], torch.tensor([[MARK, 3]])).log_softmax(dim=2)[0]
    steps = [first[0, 2], first[1, 0], first[2, MARK], second[0, 3], second[1, MARK]]
    assert float(outcome.loss) == pytest.approx(-float(sum(steps)) / 5, rel=1e-5)


class Fixed(nn.Module):
    """Says the same logits whatever it sees."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits


def test_the_loss_of_sigmoids_is_binary_cross_entropy_over_all_labels() -> None:
    outcome = Sigmoids(torch.arange(2)).step(Fixed([[1.0, -2.0]]), torch.empty(1), label_sets([0], labels=2), 0)
    wanted = (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2
    assert float(outcome.loss) == pytest.approx(wanted)
    assert int(outcome.right) == 1


def test_the_loss_of_ranking_is_cross_entropy_against_the_normalised_set() -> None:
    network = Fixed([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    outcome = SoftmaxRanking(torch.arange(3)).step(network, torch.empty(2), label_sets([0, 1], [0], labels=3), 0)
    total = np.log(np.exp([2, 1, 0]).sum())
    assert float(outcome.loss) == pytest.approx(((total - 1.5) + total) / 2)
    assert int(outcome.right) == 1, "the second ranks a label first that is not there"


# The task


def test_all_networks_have_the_same_encoder_and_a_recipe_of_their_own() -> None:
    networks = {model: objective(torch.arange(10)).network() for model, objective in OBJECTIVES.items()}
    sizes = {
        model: next(parameter_count(module) for name, module in network.named_modules() if name in ("encoder", "0"))
        for model, network in networks.items()
    }
    assert len(set(sizes.values())) == 1
    assert tuple(OBJECTIVES) == MULTI_LABEL_MODELS
    for model in OBJECTIVES:
        assert recipe_for(default_recipe(model), model) is MULTI_LABEL
        with pytest.raises(KeyError, match="multi-label"):
            recipe_for("study", model)
    assert recipe_for(default_recipe("lstm"), "lstm") is STUDY
    with pytest.raises(KeyError):
        recipe_for("multi-label", "lstm")


@pytest.mark.parametrize("model", OBJECTIVES)
def test_folding_batch_norm_away_changes_no_answer(model: str, outfits: MultiLabelData) -> None:
    torch.manual_seed(0)
    task = MultiLabel(config_of(model), outfits, CPU, LOOKING_AWAY)
    network = task.network()
    assert sum(isinstance(module, Normalised) for module in network.modules()) >= 5, "the whole encoder"
    for start in (0, 32, 64):
        task.step(network, torch.arange(start, start + 32))
    network.eval()
    folded = task.deployable(network)
    assert not any(isinstance(module, Normalised | nn.BatchNorm2d) for module in folded.modules())
    assert folded.state_dict().keys() == OBJECTIVES[model](torch.arange(10)).network().state_dict().keys()
    objective = OBJECTIVES[model](torch.arange(10))
    labels = torch.from_numpy(outfits.test.labels)
    pixels = torch.from_numpy(outfits.test.images) / 255
    with torch.no_grad():
        losses = [float(objective.step(which, pixels, labels, 0).loss) for which in (network, folded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("model", OBJECTIVES)
def test_training_learns_to_tell_sets_and_the_summary_has_its_figures(
    model: str, plain: MultiLabelData, tmp_path: Path
) -> None:
    metrics = trainer.train(config_of(model, epochs=4), plain, Run(tmp_path))
    summary = metrics["summary"]
    assert summary["test"]["exact_match"] > 0.9
    assert summary["validation"]["o_f1"] == pytest.approx(summary["peak_validation_o_f1"])
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
    assert summary["label_order"] == [
        plain.labels[label] for label in np.argsort(-plain.train.labels.sum(axis=0), kind="stable")
    ]
    assert set(summary["thresholds"]) == {"o_f1", "exact_match", "one_half"} == set(summary["test"]["by_threshold"])
    by_itself = summary["test"] == summary["test"]["by_threshold"]["o_f1"] | {
        "by_threshold": summary["test"]["by_threshold"],
        "by_rank": summary["test"]["by_rank"],
    }
    assert by_itself or model == "cnn_rnn"
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_what_was_kept_gives_the_summarys_figures_again(plain: MultiLabelData, tmp_path: Path) -> None:
    config = config_of("sigmoids", epochs=2)
    summary = trainer.train(config, plain, Run(tmp_path))["summary"]
    objective = Sigmoids(torch.arange(4))
    network = objective.network().eval()
    network.load_state_dict(weights(tmp_path))
    with torch.no_grad():
        scores = objective.answer(network, torch.from_numpy(plain.test.images) / 255).scores.numpy()
    outcome = evaluate(decide(scores, summary["thresholds"]["o_f1"]), scores, plain.test.labels)
    assert outcome.o_f1 == pytest.approx(summary["test"]["o_f1"])
    assert outcome.mean_ap == pytest.approx(summary["test"]["mean_ap"])


class CrashError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights(outfits: MultiLabelData, tmp_path: Path) -> None:
    config = config_of("cnn_rnn", limit=64)
    unbroken = trainer.train(config, outfits, Run(tmp_path / "unbroken"))

    def crash(at: Progress) -> None:
        if at.epoch == 2:
            raise CrashError

    with pytest.raises(CrashError):
        trainer.train(config, outfits, Run(tmp_path / "broken"), OnStep(crash))
    assert figures(trainer.train(config, outfits, Run(tmp_path / "broken"))) == figures(unbroken)
    assert same_weights(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


@pytest.mark.parametrize("model", OBJECTIVES)
def test_a_loss_that_is_no_number_stops_the_run(model: str, outfits: MultiLabelData, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        trainer.train(config_of(model, learning_rate=1e30), outfits, Run(tmp_path))


@pytest.mark.parametrize("model", OBJECTIVES)
def test_weights_that_are_no_numbers_have_no_figure(model: str, outfits: MultiLabelData) -> None:
    task = MultiLabel(config_of(model), outfits, CPU, LOOKING_AWAY)
    network = task.deployable(task.network())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert all(np.isnan(figure) for figure in task.validate(network).values())


def test_the_data_set_decides_the_task(outfits: MultiLabelData, small: FashionMnist) -> None:
    assert isinstance(build_task(config_of("cnn_rnn"), outfits, CPU, None), MultiLabel)
    assert isinstance(build_task(make_config(), small, CPU, None), SingleLabel)


def test_networks_take_the_number_of_labels_from_the_data(plain: MultiLabelData) -> None:
    network = MultiLabel(config_of("cnn_rnn"), plain, CPU, LOOKING_AWAY).network()
    assert isinstance(network, CnnRnn)
    assert network.labels == 4


# Runs and data sets by name


def test_runs_on_different_data_sets_are_different_runs(tmp_path: Path) -> None:
    one, other = (replace(config_of("cnn_rnn"), dataset=name) for name in ("outfits", "outfits-independent"))
    assert one.run_name == "cnn_rnn-outfits-tiny-seed0"
    assert make_config().run_name == "lstm-tiny-seed0"
    tmp_path.mkdir(exist_ok=True)
    Run(tmp_path).start(one)
    with pytest.raises(RunMismatchError, match="another dataset"):
        Run(tmp_path).start(other)


def test_a_run_of_before_there_were_other_data_sets_still_goes_on(tmp_path: Path) -> None:
    Run(tmp_path).start(make_config())
    path = tmp_path / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    del config["dataset"]
    path.write_text(json.dumps(config))
    Run(tmp_path).start(make_config())


@pytest.mark.parametrize(
    ("name", "model", "picked"),
    [(None, "lstm", "fashion-mnist"), (None, "cnn_rnn", "outfits"), ("outfits-independent", "sigmoids", None)],
)
def test_a_model_has_a_data_set_of_its_own_and_may_be_given_another(
    name: str | None, model: str, picked: str | None
) -> None:
    assert datasets.pick(name, model) == (picked or name)


@pytest.mark.parametrize(("name", "model"), [("outfits", "lstm"), ("fashion-mnist", "cnn_rnn"), ("voc2007", "cnn")])
def test_a_data_set_that_a_model_cannot_learn_from_is_refused(name: str, model: str) -> None:
    with pytest.raises(DataNotFoundError, match=f"{model} cannot learn from {name}: it takes"):
        datasets.pick(name, model)


# The command


def test_the_command_trains_on_outfits_and_says_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "validation", "test"):
        monkeypatch.setitem(cast(dict[str, int], SIZES), split, 64)
    arguments = ["cnn_embedding", "--data", "outfits-independent", "--epochs", "1", "--threads", "1", "--device", "cpu"]
    outcome = CliRunner().invoke(train, [*arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "cnn_embedding-outfits-independent-multi-label-seed0: data from" in outcome.output
    assert re.search(
        r"best epoch 1: validation O-F1 [\d.]+%, validation exact match [\d.]+%, test O-F1", outcome.output
    )
    config = Run(tmp_path).read_config()
    assert (config["dataset"], config["recipe"]["name"]) == ("outfits-independent", "multi-label")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lstm", "--data", "outfits"], "lstm cannot learn from outfits: it takes fashion-mnist"),
        (["sigmoids", "--recipe", "study"], "no such recipe for sigmoids; it has: multi-label"),
        (["cnn_rnn", "--loss", "soft-labels"], "--loss: cnn_rnn has a loss of its own"),
    ],
)
def test_the_command_refuses_what_does_not_fit_before_it_reads_any_data(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    outcome = CliRunner().invoke(train, [*arguments, "--data-dir", str(tmp_path / "nowhere")])
    assert outcome.exit_code != 0
    assert complaint in outcome.output
