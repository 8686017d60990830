"""A finished run as what is published."""

from collections.abc import Mapping
from typing import Any

import onnx

from hangtag.export.exporter import Source
from hangtag.export.file import examples, onnx_model, provenance, reference_answers, torch_export
from hangtag.export.gate.network_reference import of_network
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.network import checkpoint
from hangtag.export.network.served_network import SingleLabel
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
    served = checkpoint.load(run)
    if isinstance(served, SingleLabel):
        gate = GateData.of(data.test)
        test_images = len(gate.images)
    else:
        gate = GateData(_canvases(data.test, config, canvases))
        test_images = outfits.SIZES["test"] if config.get("dataset") in outfits.NAMES else _VOC_TEST_IMAGES

    def make() -> onnx.ModelProto:
        described = served.metadata | provenance.collect(served, config, metrics)
        return torch_export.to_onnx(served, described) if graph is None else onnx_model.described(graph, described)

    return Source(
        name=model_name(name or short_name(run.model), to),
        precision=to,
        graph=make,
        reference=of_network(served),
        labels=runs_data.labels(metrics["summary"]),
        data=data,
        data_digest=config["data_digest"],
        gate=gate,
        test_images=test_images,
        recorded=lambda proof: _recorded(proof, gate, config),
        network=served,
    )


def _recorded(proof: Proof, gate: GateData, config: Mapping[str, Any]) -> dict[str, str]:
    """PyTorch's answers, and examples; of own pictures, which may be gone some day, the answers to the examples."""
    if gate.classes is None:
        return reference_answers.record(proof.expected, one_label=False)
    chosen = examples.choose(proof.expected, gate.classes)
    kept = examples.record(gate.images[chosen], gate.classes[chosen])
    first = chosen if sources.kind_of(str(config.get("dataset", fashion_mnist.NAME))) else None
    return kept | reference_answers.record(proof.expected, one_label=True, first=first)


def _canvases(test: Split, config: Mapping[str, Any], count: int) -> Images:
    """Canvases [count, 64, 64] of real test garments: of the run's own data set where that is one of outfits.

    For any other data set "outfits" serves as well, since it is arithmetic that is compared.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, count).images
