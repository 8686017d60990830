"""The label distances of a finished run, from the embeddings in its weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, build
from hangtag.training.data import voc
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.errors import RunMismatchError
from hangtag.training.labels.distance import from_embeddings
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.networks.multi_label import CnnEmbedding
from hangtag.training.runs.label_distances import run_distances
from hangtag.training.runs.run import Run
from tests.training.configs import make_config


def finished(folder: Path, model: str, state: dict[str, torch.Tensor], **summary: object) -> Run:
    """A run that counts as finished, with these weights."""
    folder.mkdir()
    run = Run(folder)
    run.start(make_config(model, seed=4))
    run.save("best.pt", {"model": state, "epoch": 1})
    run.write_metrics({"epochs": [], "summary": summary})
    return run


@pytest.mark.parametrize("model", [name for name in NETWORKS if name not in MULTI_LABEL_NETWORKS])
def test_a_classifiers_embeddings_are_its_last_layers_rows(tmp_path: Path, model: str) -> None:
    torch.manual_seed(0)
    network = build(model)
    (last, *_) = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][::-1]
    measured = run_distances(finished(tmp_path / "run", model, network.state_dict()))
    assert np.array_equal(measured.matrix, from_embeddings(LABELS, last.weight.detach().numpy(), {}).matrix)
    assert measured.provenance["from"] == "weights of the last layer"
    assert (measured.provenance["model"], measured.provenance["seed"]) == (model, 4)


def test_a_cnn_rnn_has_embeddings_and_the_row_of_end_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CnnRnn()
    measured = run_distances(finished(tmp_path / "run", "cnn_rnn", network.state_dict()))
    embeddings = network.embeddings.weight.detach().numpy()
    assert len(embeddings) == len(LABELS) + 1
    assert np.array_equal(measured.matrix, from_embeddings(LABELS, embeddings[:-1], {}).matrix)
    assert measured.provenance["from"] == "label embeddings"


@pytest.mark.parametrize("build_one", [CnnRnn, CnnEmbedding])
def test_a_run_on_another_data_set_gives_the_distances_of_its_own_labels(
    tmp_path: Path, build_one: type[CnnRnn] | type[CnnEmbedding]
) -> None:
    torch.manual_seed(0)
    state = build_one(20).state_dict()
    measured = run_distances(finished(tmp_path / "run", "cnn_rnn", state, labels=list(voc.LABELS)))
    rows = state["embeddings.weight" if build_one is CnnRnn else "score.weight"][:20]
    assert measured.labels == voc.LABELS
    assert np.array_equal(measured.matrix, from_embeddings(voc.LABELS, rows.numpy(), {}).matrix)


@pytest.mark.parametrize(
    "state",
    [
        {"features.weight": torch.ones(3, 3), "bias": torch.ones(10)},
        {"embeddings.weight": torch.ones(7, 4)},
        {"quantized.weight": torch.ones(10, 4, dtype=torch.int8)},
    ],
)
def test_weights_without_embeddings_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RunMismatchError, match=r"best\.pt holds no weights with a row for each of the 10 labels"):
        run_distances(finished(tmp_path / "run", "lstm", state))


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "lstm", {})
    run.write_metrics({"epochs": [{}, {}]})
    with pytest.raises(RunMismatchError, match=r"is not finished \(2 epochs so far\)"):
        run_distances(run)
