"""A finished run as the source of an export."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch.onnx.errors import OnnxExporterError

from hangtag.export.errors import ExportError
from hangtag.export.exporter import Source
from hangtag.export.file import kept_answers, onnx_model, torch_export
from hangtag.export.gate.prove import Proof
from hangtag.export.gate.reference import Reference, sigmoid, softmax
from hangtag.export.gate.tolerances import GATE_IMAGES
from hangtag.export.network import LabelThreshold, ServedNetwork, SingleLabel, load_run
from hangtag.export.quantization.precision import model_name
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Dataset, Images, Split
from hangtag.training.metrics.class_metrics import MOST_IN_MATRIX, restored
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.config import git_revision, portable, short_name
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""How many canvases are compared for a network with several labels per image, by default."""
_VOC_TEST_IMAGES = 4_952


def of_run(
    run: Run,
    data: Dataset,
    to: str = "fp32",
    *,
    name: str | None = None,
    graph: onnx.ModelProto | None = None,
    canvases: int = CANVASES,
) -> Source:
    """Return the network of the run's best epoch as a source.

    Args:
        run: a finished run.
        data: the data of the run's training. For sets of labels: the garments from which canvases are composed.
        to: the precision to publish.
        name: the model's name in the repository, to which the precision is added; None for the network's name.
        graph: the network in FP32 from an earlier export of this run, for a caller that publishes the run several
            times. The file passes the same gate. None lets PyTorch export the network.
        canvases: on how many canvases a network with several labels per image is compared.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: the weights do not fit the network.
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = load_run(run)
    classes = None
    if isinstance(served, SingleLabel):
        test = data.test.first(GATE_IMAGES)
        images, classes = test.images, test.classes
        test_images = len(images)
    else:
        images = canvases_of(data.test, config, canvases)
        test_images = outfits.SIZES["test"] if config.get("dataset") in outfits.NAMES else _VOC_TEST_IMAGES

    def recorded(proof: Proof) -> dict[str, str]:
        """PyTorch's answers, and examples. For a user's pictures, which may disappear, answers to the examples."""
        if classes is None:
            return kept_answers.record_answers(proof.expected)
        chosen = kept_answers.choose_examples(proof.expected["logits"].argmax(axis=1), classes)
        kept = kept_answers.record_examples(images[chosen], classes[chosen])
        first = chosen if sources.kind_of(str(config.get("dataset", fashion_mnist.NAME))) else None
        return kept | kept_answers.record_answers(proof.expected, first)

    def make() -> onnx.ModelProto:
        described = served.metadata | _provenance(served, config, metrics)
        if graph is not None:
            return onnx_model.described(graph, described)
        try:
            return torch_export.to_onnx(served, described)
        except OnnxExporterError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            why = next(iter(str(cause).splitlines()), "").rstrip(".") or type(cause).__name__
            raise ExportError(
                f"{run.model} cannot be exported to ONNX. PyTorch's exporter: {why}. In the network, replace this by "
                "tensor operations that ONNX has, without if and float() of pixels, and train it again."
            ) from error

    return Source(
        name=model_name(name or short_name(run.model), to),
        precision=to,
        graph=make,
        reference=_reference(served, metrics["summary"]),
        labels=runs_data.labels(metrics["summary"]),
        image=served.image,
        data=data,
        data_digest=config["data_digest"],
        images=images,
        classes=classes,
        test_images=test_images,
        recorded=recorded,
        network=served,
    )


def canvases_of(test: Split, config: Mapping[str, Any], count: int) -> Images:
    """Canvases [count, 64, 64] of real test garments, in the style of the run's data set if that is one of outfits.

    For any other data set, "outfits" is good enough, because the check compares only arithmetic.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, count).images


def _reference(served: ServedNetwork, summary: Mapping[str, Any]) -> Reference:
    """Return the network, in evaluation mode, as its file's reference, with the accuracy that the run recorded."""
    recorded, test = None, summary["test"]
    if isinstance(served, SingleLabel) and "confusion" in test:
        counts = restored(test["confusion"], len(runs_data.labels(summary)))
        recorded = float(test["accuracy"]), int(counts.sum())
    return Reference(
        "PyTorch",
        served.inputs,
        served.outputs,
        served.answer,
        activation={"softmax": softmax, "sigmoid": sigmoid}[served.activation],
        threshold=served.threshold if isinstance(served, LabelThreshold) else None,
        recorded=recorded,
    )


def _provenance(served: ServedNetwork, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Where a network comes from and what training measured, from its run's files (keys without their prefix)."""
    summary, environment = metrics["summary"], config["environment"]
    labels = runs_data.labels(summary)
    return {
        "labels": json.dumps(labels),
        "recipe": config["recipe"]["name"],
        "seed": str(config["seed"]),
        "parameters": str(summary["parameters"]),
        "data_digest": config["data_digest"],
        "git_revision": environment["git_revision"],
        "export_git_revision": git_revision(),
        "trained": environment["created"],
        "versions": json.dumps(
            onnx_model.versions() | {"torch": environment["torch"], "torch_export": torch.__version__}
        ),
        **_figures(summary),
        **_label_distances(served, labels),
        "training": json.dumps({"config": portable(config), "metrics": {**metrics, "summary": _published(summary)}}),
    }


def _published(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's summary without parts that a file does not need: worst images, and confusions of very many labels."""
    splits = {key: value for key, value in summary.items() if key in ("validation", "test")}
    if len(runs_data.labels(summary)) > MOST_IN_MATRIX:
        splits = {
            key: {name: figure for name, figure in value.items() if name != "confusion"}
            for key, value in splits.items()
        }
    return {key: value for key, value in summary.items() if key != "worst"} | splits


def _label_distances(served: ServedNetwork, labels: Sequence[str]) -> dict[str, str]:
    """How far apart a garment classifier's labels are, so that an answer can say how wrong the runners-up would be."""
    garments = fashion_mnist.label_distances(labels)
    if garments is None or not isinstance(served, SingleLabel):
        return {}
    return {
        "label_distances": json.dumps(garments["distances"]),
        "label_distances_from": json.dumps(garments["provenance"]),
    }


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """What training measured. A classifier's test accuracy is added when the gate measures it on the file."""
    if "accuracy" in summary["validation"]:
        return {"validation_accuracy": f"{summary['validation']['accuracy']:.4f}"}
    return {
        f"{split}_{figure}": f"{summary[split][figure]:.4f}"
        for split in ("validation", "test")
        for figure in ("o_f1", "exact_match")
    }
