"""Where distances of labels can be had from: a run, an ONNX file, or a JSON file that `hangtag labels` wrote."""

import json
from pathlib import Path

from hangtag.extras import needs
from hangtag.serving import model_repository
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.errors import LabelDistanceError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances


def find(source: str, runs_dir: Path) -> LabelDistances:
    """The distances that a source tells, of its own labels, which need not be those that are wanted.

    source: FILE.json, FILE.onnx or the folder of one, or a run: its folder, its name under runs_dir, or a model whose
    latest run is meant.
    Raises LabelDistanceError or RunMismatchError, for a person to read, where it tells none.
    """
    if source.endswith(".json"):
        return label_distance.read(Path(source))
    if (file := model_repository.find_file(source)) is not None:
        with needs("train", "reading weights from an ONNX file"):
            return _of_onnx(file)
    with needs("train", "reading the weights of a run"):
        from hangtag.training.runs.label_distances import run_distances
        from hangtag.training.runs.run import Run
    return run_distances(Run.find(source, runs_dir))


def _of_onnx(path: Path) -> LabelDistances:
    """From the weights in an exported file, which keep the names that they have in the network.

    A file that does not say its labels is taken for one of Fashion-MNIST's.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from hangtag.training.labels.embeddings import find_embeddings

    try:
        model = onnx.load(path)
        parameters = {
            tensor.name.removeprefix("network."): onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
        }
        properties = {entry.key.removeprefix("hangtag."): entry.value for entry in model.metadata_props}
        labels = _names(properties["labels"]) if "labels" in properties else LABELS
    except OSError as error:
        raise LabelDistanceError(f"{path} cannot be read ({error.strerror}).") from error
    except (DecodeError, ValueError, TypeError) as error:
        raise LabelDistanceError(f"{path} is not a readable ONNX file ({error}).") from error
    found = find_embeddings(parameters, len(labels))
    if found is None:
        raise LabelDistanceError(
            f"{path} holds no weights with a row for each of the {len(labels)} labels; name a run instead."
        )
    provenance = {"from": found.origin, "parameter": found.parameter, "file": "/".join(path.absolute().parts[-3:])}
    provenance |= {key: properties[key] for key in ("recipe", "seed", "git_revision") if key in properties}
    return label_distance.from_embeddings(labels, found.vectors, provenance)


def _names(text: str) -> tuple[str, ...]:
    """Raises ValueError or TypeError for what is no JSON list of names."""
    names = json.loads(text)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise TypeError("its labels are not a list of names")
    return tuple(names)
