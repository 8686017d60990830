"""Read distances of labels from a run, an ONNX file, or a JSON file that `hangtag labels` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path

from hangtag.evaluation.errors import NAMING_AN_EXPORTED_MODEL
from hangtag.extras import needs
from hangtag.serving import model_repository
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.errors import LabelDistanceError, RunMismatchError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances, find_embeddings
from hangtag.training.runs import data
from hangtag.training.runs.run import RESTART_HINT, Run


def read_distances(source: str, runs_dir: Path) -> LabelDistances:
    """Read the distances between a source's own labels. The caller checks that these are the labels that it needs.

    Args:
        source: FILE.json; FILE.onnx or a model's folder; or a run: its folder, its name, or a network's name, which
            stands for its latest run.
        runs_dir: the folder in which a run's name is looked up.

    Raises:
        LabelDistanceError: the source holds no distances, or cannot be read.
        RunMismatchError: there is no such run.
        MissingExtraError: the packages that read the source are not installed.
    """
    if source.endswith(".json"):
        return label_distance.read(Path(source))
    if (file := model_repository.find_file(source)) is not None:
        with needs("export", "reading weights from an ONNX file"):
            return _read_onnx(file)
    return _read_run(Run.find(source, runs_dir, alternative=NAMING_AN_EXPORTED_MODEL))


def _read_run(run: Run) -> LabelDistances:
    """Compute the distances from a finished run's best weights."""
    run.require_finished()
    labels, config = data.labels(run.read_metrics()["summary"]), run.read_config()
    state = run.load("best.pt").get("model")
    parameters = {name: value.numpy() for name, value in state.items()} if isinstance(state, Mapping) else {}
    if (embeddings := find_embeddings(parameters, len(labels))) is None:
        raise RunMismatchError(
            f"{run.folder / 'best.pt'} holds no weights with a row for each of the {len(labels)} labels. {RESTART_HINT}"
        )
    provenance = {
        "from": embeddings.origin,
        "parameter": embeddings.parameter,
        "model": run.model,
        "recipe": config.get("recipe", {}).get("name"),
        "seed": config.get("seed"),
        "git_revision": config.get("environment", {}).get("git_revision"),
    }
    return label_distance.from_embeddings(labels, embeddings.vectors, provenance)


def _read_onnx(path: Path) -> LabelDistances:
    """Compute the distances from an exported file's weights, in which tensors have the names of the network's
    parameters.

    A file without labels is read as a Fashion-MNIST model.
    """
    import onnx
    from google.protobuf.message import DecodeError

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
    embeddings = find_embeddings(parameters, len(labels))
    if embeddings is None:
        raise LabelDistanceError(
            f"{path} holds no weights with a row for each of the {len(labels)} labels; name a run instead."
        )
    provenance = {
        "from": embeddings.origin,
        "parameter": embeddings.parameter,
        "file": "/".join(path.absolute().parts[-3:]),
    }
    provenance |= {key: properties[key] for key in ("recipe", "seed", "git_revision") if key in properties}
    return label_distance.from_embeddings(labels, embeddings.vectors, provenance)


def _names(text: str) -> tuple[str, ...]:
    """Parse a JSON list of names; raise ValueError or TypeError for anything else."""
    names = json.loads(text)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise TypeError("its labels are not a list of names")
    return tuple(names)
