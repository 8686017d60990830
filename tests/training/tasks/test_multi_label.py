import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, build, recipe_for
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.data.multi_label import MultiLabelData
from hangtag.training.errors import DivergedError, SettingsError
from hangtag.training.loop import trainer
from hangtag.training.losses.multi_label import Sigmoids
from hangtag.training.metrics.multi_label import decide, evaluate
from hangtag.training.networks.batch_norm import Normalised
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Observer, StepProgress
from hangtag.training.recipes import MULTI_LABEL_RECIPE, STUDY
from hangtag.training.runs.run import Run
from hangtag.training.tasks.multi_label import MultiLabelTask
from hangtag.training.tasks.selection import build_task
from hangtag.training.tasks.single_label import SingleLabelTask
from tests.training.configs import OnStep, figures, make_config, same_weights, weights
from tests.training.multi_label_configs import config_of

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
IGNORING = Observer()


def test_all_networks_have_the_same_encoder_and_a_recipe_of_their_own() -> None:
    networks = {model: build(model) for model in MULTI_LABEL_NETWORKS}
    sizes = {
        model: next(parameter_count(module) for name, module in network.named_modules() if name in ("encoder", "0"))
        for model, network in networks.items()
    }
    assert len(set(sizes.values())) == 1
    for model in MULTI_LABEL_NETWORKS:
        assert recipe_for(None, model) is MULTI_LABEL_RECIPE
        with pytest.raises(SettingsError, match="multi-label"):
            recipe_for("study", model)
    assert recipe_for(None, "lstm") is STUDY
    with pytest.raises(SettingsError):
        recipe_for("multi-label", "lstm")


@pytest.mark.parametrize("model", MULTI_LABEL_NETWORKS)
def test_folding_batch_norm_away_changes_no_answer(model: str, outfits: MultiLabelData) -> None:
    torch.manual_seed(0)
    task = MultiLabelTask(config_of(model), outfits, CPU, IGNORING)
    network = task.network()
    assert sum(isinstance(module, Normalised) for module in network.modules()) >= 5, "the whole encoder"
    for start in (0, 32, 64):
        task.training_step(network, torch.arange(start, start + 32))
    network.eval()
    folded = task.deployable(network)
    assert not any(isinstance(module, Normalised | nn.BatchNorm2d) for module in folded.modules())
    assert folded.state_dict().keys() == build(model).state_dict().keys()
    kind = NETWORKS[model].objective
    assert kind is not None
    objective = kind(torch.arange(10))
    labels = torch.from_numpy(outfits.test.labels)
    pixels = torch.from_numpy(outfits.test.images) / 255
    with torch.no_grad():
        losses = [float(objective.training_step(which, pixels, labels, 0).loss) for which in (network, folded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("model", MULTI_LABEL_NETWORKS)
def test_training_learns_label_sets_and_the_summary_has_its_figures(
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


def test_the_saved_weights_reproduce_the_summarys_figures(plain: MultiLabelData, tmp_path: Path) -> None:
    config = config_of("sigmoids", epochs=2)
    summary = trainer.train(config, plain, Run(tmp_path))["summary"]
    network = build("sigmoids", 4).eval()
    network.load_state_dict(weights(tmp_path))
    with torch.no_grad():
        scores = Sigmoids(torch.arange(4)).predict(network, torch.from_numpy(plain.test.images) / 255).scores.numpy()
    outcome = evaluate(decide(scores, summary["thresholds"]["o_f1"]), scores, plain.test.labels)
    assert outcome.o_f1 == pytest.approx(summary["test"]["o_f1"])
    assert outcome.mean_ap == pytest.approx(summary["test"]["mean_ap"])


class CrashError(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_weights(outfits: MultiLabelData, tmp_path: Path) -> None:
    config = config_of("cnn_rnn", limit=64)
    unbroken = trainer.train(config, outfits, Run(tmp_path / "unbroken"))

    def crash(at: StepProgress) -> None:
        if at.epoch == 2:
            raise CrashError

    with pytest.raises(CrashError):
        trainer.train(config, outfits, Run(tmp_path / "broken"), OnStep(crash))
    assert figures(trainer.train(config, outfits, Run(tmp_path / "broken"))) == figures(unbroken)
    assert same_weights(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


@pytest.mark.parametrize("model", MULTI_LABEL_NETWORKS)
def test_a_loss_that_is_not_finite_stops_the_run(model: str, outfits: MultiLabelData, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        trainer.train(config_of(model, learning_rate=1e30), outfits, Run(tmp_path))


@pytest.mark.parametrize("model", MULTI_LABEL_NETWORKS)
def test_weights_that_are_not_finite_validate_as_nan(model: str, outfits: MultiLabelData) -> None:
    task = MultiLabelTask(config_of(model), outfits, CPU, IGNORING)
    network = task.deployable(task.network())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert all(np.isnan(figure) for figure in task.validate(network).values())


def test_the_data_set_decides_the_task(outfits: MultiLabelData, small: FashionMnist) -> None:
    assert isinstance(build_task(config_of("cnn_rnn"), outfits, CPU, None), MultiLabelTask)
    assert isinstance(build_task(make_config(), small, CPU, None), SingleLabelTask)


def test_networks_take_the_number_of_labels_from_the_data(plain: MultiLabelData) -> None:
    network = MultiLabelTask(config_of("cnn_rnn"), plain, CPU, IGNORING).network()
    assert isinstance(network, CnnRnn)
    assert network.labels == 4
