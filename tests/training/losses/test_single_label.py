"""The losses by hand and by their definitions, and that a run with them is a run like any other."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hangtag.cli import main
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.errors import LabelDistanceError, RunMismatchError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop import trainer
from hangtag.training.losses import single_label as losses
from hangtag.training.losses.single_label import DistanceLoss
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from tests.training.configs import figures, make_config, same_weights, weights

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MATRIX = np.array([[0, 0.25, 1], [0.25, 0, 0.5], [1, 0.5, 0]])
DISTANCES = LabelDistances(("a", "b", "c"), MATRIX, {})
LOGITS = torch.log(torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]]))  # probabilities 1/2 1/4 1/4, and 1/8 1/8 3/4
CLASSES = torch.tensor([0, 1])


def loss(name: str, beta: float, weight: float = 1.0, smoothing: float = 0.0) -> losses.ClassLoss:
    kind = DistanceLoss(name, beta, weight, DISTANCES.digest)  # type: ignore[arg-type]
    return losses.class_loss(kind, smoothing, DISTANCES, CPU)


def test_without_distances_it_is_cross_entropy_with_smoothing() -> None:
    plain = losses.class_loss(None, 0.0, None, CPU)(LOGITS, CLASSES)
    assert plain.item() == pytest.approx((math.log(2) + math.log(8)) / 2)
    # A tenth of the target is spread over the three classes.
    smooth = losses.class_loss(None, 0.1, None, CPU)(LOGITS[:1], CLASSES[:1])
    assert smooth.item() == pytest.approx(0.9 * math.log(2) + 0.1 * (math.log(2) + 2 * math.log(4)) / 3)


def test_soft_labels_by_hand() -> None:
    soft = losses.soft_labels(torch.tensor(MATRIX), 2.0)
    weights_of_a = [1, math.exp(-0.5), math.exp(-2)]
    assert soft[0].tolist() == pytest.approx([weight / sum(weights_of_a) for weight in weights_of_a])
    assert soft.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    wanted = -sum(q * math.log(p) for q, p in zip(soft[0].tolist(), [0.5, 0.25, 0.25], strict=True))
    assert loss("soft-labels", 2.0)(LOGITS[:1], CLASSES[:1]).item() == pytest.approx(wanted)


def test_the_neighbourhood_loss_by_hand() -> None:
    first = -math.log(0.5 + math.exp(-0.5) * 0.25 + math.exp(-2) * 0.25)
    second = -math.log(math.exp(-0.5) * 0.125 + 0.125 + math.exp(-1) * 0.75)
    assert loss("embedding-distance", 2.0)(LOGITS, CLASSES).item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("name", ["soft-labels", "embedding-distance"])
def test_the_weight_mixes_with_the_smoothed_cross_entropy(name: str) -> None:
    plain = functional.cross_entropy(LOGITS, CLASSES, label_smoothing=0.1)
    alone = loss(name, 3.0)(LOGITS, CLASSES)
    mixed = loss(name, 3.0, weight=0.3, smoothing=0.1)(LOGITS, CLASSES)
    assert mixed.item() == pytest.approx((0.7 * plain + 0.3 * alone).item())


@pytest.mark.parametrize("name", ["soft-labels", "embedding-distance"])
def test_with_a_large_beta_both_are_the_cross_entropy(name: str) -> None:
    plain = functional.cross_entropy(LOGITS, CLASSES)
    assert loss(name, 1e4)(LOGITS, CLASSES).item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["soft-labels", "embedding-distance"])
@given(sure=st.floats(0.5, 20))
def test_a_far_mistake_costs_more_than_a_near_one(name: str, sure: float) -> None:
    truth = torch.tensor([0])
    near, far = torch.tensor([[0.0, sure, 0.0]]), torch.tensor([[0.0, 0.0, sure]])
    assert loss(name, 3.0)(near, truth) < loss(name, 3.0)(far, truth)
    plain = functional.cross_entropy
    assert plain(near, truth).item() == pytest.approx(plain(far, truth).item())


def test_the_neighbourhood_loss_stays_finite_without_near_labels() -> None:
    logits = torch.tensor([[-1e4, -1e4, 1e4]], requires_grad=True)
    value = loss("embedding-distance", 50.0)(logits, CLASSES[:1])
    value.backward()
    assert value.item() == pytest.approx(50.0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_distillation_loss_is_zero_from_itself_and_agrees_with_a_computation_by_hand() -> None:
    assert losses.distillation_loss(LOGITS, LOGITS, 3.0).item() == pytest.approx(0, abs=1e-6)
    student, teacher = torch.zeros(1, 2), torch.log(torch.tensor([[3.0, 1.0]]))
    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses.distillation_loss(student, teacher, 1.0).item() == pytest.approx(wanted)
    # At temperature 2 the odds 3 : 1 become sqrt(3) : 1, and the square of the temperature is put back.
    p = math.sqrt(3) / (1 + math.sqrt(3))
    wanted = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert losses.distillation_loss(student, teacher, 2.0).item() == pytest.approx(wanted)


@pytest.mark.parametrize("given", [None, LabelDistances(("a", "b", "c"), MATRIX**2, {})], ids=["none", "others"])
def test_distances_that_the_loss_does_not_name_are_refused(given: LabelDistances | None) -> None:
    kind = DistanceLoss("soft-labels", 1.0, 0.5, DISTANCES.digest)
    with pytest.raises(LabelDistanceError, match="not those that the run's loss names"):
        losses.class_loss(kind, 0.0, given, CPU)


# Runs.

SHIPPED = label_distance.default()


def config_with(name: str = "embedding-distance", beta: float = 3.0, weight: float = 0.5) -> RunConfig:
    kind = DistanceLoss(name, beta, weight, SHIPPED.digest)  # type: ignore[arg-type]
    return replace(make_config(), loss=kind)


def train(config: RunConfig, small: FashionMnist, folder: Path) -> dict[str, Tensor]:
    trainer.train(config, small, Run(folder), distances=SHIPPED)
    return weights(folder)


def test_equal_configs_end_with_equal_weights_and_another_loss_with_others(small: FashionMnist, tmp_path: Path) -> None:
    one = train(config_with(), small, tmp_path / "one")
    assert same_weights(one, train(config_with(), small, tmp_path / "again"))
    for number, other in enumerate(
        (config_with("soft-labels"), config_with(beta=4.0), config_with(weight=0.6), make_config())
    ):
        assert not same_weights(one, train(other, small, tmp_path / str(number)))
    assert figures(Run(tmp_path / "one").read_metrics()) == figures(Run(tmp_path / "again").read_metrics())


@pytest.mark.parametrize("other", [make_config(), config_with(beta=4.0), config_with("soft-labels")])
def test_a_folder_of_another_loss_is_another_run(tmp_path: Path, other: RunConfig) -> None:
    tmp_path.mkdir(exist_ok=True)
    Run(tmp_path).start(config_with())
    Run(tmp_path).start(config_with())
    with pytest.raises(RunMismatchError, match=r"another .*loss"):
        Run(tmp_path).start(other)


def hangtag(folder: Path, raw_dir: Path, *more: object) -> Result:
    fixed = ("--data-dir", raw_dir, "--limit", 64, "--epochs", 1, "--threads", 1, "--device", "cpu", "--out", folder)
    return CliRunner().invoke(main, ["train", "lstm", *map(str, fixed), *map(str, more)])


def test_the_command_records_the_loss(raw_dir: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(LabelDistances(SHIPPED.labels, SHIPPED.matrix**2, {}).text())
    folder = tmp_path / "run"
    result = hangtag(
        folder, raw_dir, "--loss", "embedding-distance", "--beta", 7, "--loss-weight", 0.25, "--distances", own
    )
    assert result.exit_code == 0, result.output
    assert "lstm-study-embedding-distance-seed0" in result.output
    assert Run(folder).read_config()["loss"] == {
        "name": "embedding-distance", "beta": 7.0, "weight": 0.25, "file": str(own),
        "distances": label_distance.read(own).digest,
    }  # fmt: skip


def test_the_command_refuses_options_that_do_not_fit_the_loss(raw_dir: Path, tmp_path: Path) -> None:
    unused = hangtag(tmp_path / "run", raw_dir, "--beta", 3, "--loss-weight", 1)
    assert unused.exit_code == 2
    assert "--beta and --loss-weight: the cross-entropy uses no distances" in " ".join(unused.output.split())
    alien = tmp_path / "alien.json"
    alien.write_text(DISTANCES.text())
    other = hangtag(tmp_path / "run", raw_dir, "--loss", "soft-labels", "--distances", alien)
    assert other.exit_code == 1
    assert "the distances are of other labels (a, b, c)" in other.output
    missing = hangtag(tmp_path / "run", raw_dir, "--loss", "soft-labels", "--distances", tmp_path / "gone.json")
    assert missing.exit_code == 1
    assert "gone.json cannot be read (No such file or directory)" in missing.output
    assert not (tmp_path / "run").exists()
