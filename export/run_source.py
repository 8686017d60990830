"""A finished run as what is published."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import onnx
import torch

from hangtag.export.arrays import Answers, Pixels, batches
from hangtag.export.exporter import Source
from hangtag.export.file import kept_answers, onnx_model, provenance, torch_export
from hangtag.export.gate.prove import Proof
from hangtag.export.gate.reference import Reference, sigmoid, softmax
from hangtag.export.gate.tolerances import GATE_IMAGES
from hangtag.export.network import LabelThreshold, ServedNetwork, SingleLabel, load_run
from hangtag.export.quantization.precision import model_name
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Dataset, Images, Split
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.config import short_name
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""A network that answers with several labels is compared on this many canvases, unless a caller says otherwise."""
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
    """The network of the run's best epoch.

    Args:
        run: it must be finished.
        data: what the run learned from. For sets of labels: the garments that canvases are composed of.
        to: the precision to publish it in.
        name: the model's name in the repository, to which a precision adds its own; None for the network's.
        graph: the network in FP32 as an earlier export of this run made it, for a caller that publishes the run several
            times; it passes the same gate. None lets PyTorch export it.
        canvases: on how many a network that answers with several labels is compared.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: the weights do not fit.
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = load_run(run)
    classes = None
    if isinstance(served, SingleLabel):
        images, classes = data.test.images[:GATE_IMAGES], data.test.classes[:GATE_IMAGES]
        test_images = len(images)
    else:
        images = canvases_of(data.test, config, canvases)
        test_images = outfits.SIZES["test"] if config.get("dataset") in outfits.NAMES else _VOC_TEST_IMAGES

    def recorded(proof: Proof) -> dict[str, str]:
        """PyTorch's answers, and examples; of own pictures, which may be gone some day, the answers to the examples."""
        if classes is None:
            return kept_answers.record_answers(proof.expected, one_label=False)
        chosen = kept_answers.choose_examples(proof.expected["logits"].argmax(axis=1), classes)
        kept = kept_answers.record_examples(images[chosen], classes[chosen])
        first = chosen if sources.kind_of(str(config.get("dataset", fashion_mnist.NAME))) else None
        return kept | kept_answers.record_answers(proof.expected, one_label=True, first=first)

    def make() -> onnx.ModelProto:
        described = served.metadata | provenance.collect(served, config, metrics)
        return torch_export.to_onnx(served, described) if graph is None else onnx_model.described(graph, described)

    return Source(
        name=model_name(name or short_name(run.model), to),
        precision=to,
        graph=make,
        reference=_reference(served),
        labels=runs_data.labels(metrics["summary"]),
        data=data,
        data_digest=config["data_digest"],
        images=images,
        classes=classes,
        test_images=test_images,
        recorded=recorded,
        network=served,
    )


def canvases_of(test: Split, config: Mapping[str, Any], count: int) -> Images:
    """Canvases [count, 64, 64] of real test garments: of the run's own data set where that is one of outfits.

    For any other data set "outfits" serves as well, since it is arithmetic that is compared.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, count).images


def _reference(served: ServedNetwork) -> Reference:
    """The network, in evaluation mode, as what its file must answer like."""
    return Reference(
        "PyTorch",
        "pytorch",
        served.inputs,
        served.outputs,
        partial(_answer, served),
        activation={"softmax": softmax, "sigmoid": sigmoid}[served.activation],
        threshold=served.threshold if isinstance(served, LabelThreshold) else None,
    )


def _answer(served: ServedNetwork, images: Pixels, batch_size: int = 500) -> Answers:
    """Run the network on images [n, ...], and return each output for all of them."""
    with torch.inference_mode():
        parts = [served(torch.tensor(batch)) for batch in batches(images, batch_size)]
    columns = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return {spec.name: column for spec, column in zip(served.outputs, columns, strict=True)}
