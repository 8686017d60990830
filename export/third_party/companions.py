"""Read a network's description: the companion files of timm or Hugging Face, or the metadata of Ultralytics.

A description states the labels and the steps that prepare a picture. hangtag scales pictures bilinearly, and never
crops a border before scaling. ``Stated.notes`` lists other steps that a description states. If a file is damaged,
``Stated.problems`` says so, and nothing is published, because the published file could prepare pictures wrongly.
"""

import ast
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.errors import reason
from hangtag.export.third_party.preprocessing import PROBABILITIES, Stated
from hangtag.printable import named

_BILINEAR = (2, "bilinear", None)
"""The values of the key ``resample`` that mean bilinear scaling: Pillow's constant, the filter's name, or None."""
_STEPS = frozenset({
    "do_resize", "size", "resample", "crop_pct", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "rescale_offset", "do_normalize", "image_mean", "image_std", "include_top", "do_flip_channel_order",
})  # fmt: skip
"""The keys of Hugging Face's preprocessor_config.json that ``_preprocessor`` applies."""
_HARMLESS = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "auto_map", "use_fast",
    "transformers_version", "model_input_names", "_valid_processor_keys", "data_format", "input_data_format", "device",
    "return_tensors", "disable_grouping", "default_to_square", "do_convert_rgb", "do_reduce_labels", "reduce_labels",
    "pad_size", "num_channels",
})  # fmt: skip
"""The keys that have no effect, because hangtag converts all pictures to RGB. ``pad_size`` has no effect without
``do_pad``."""
_SQUASHED_FROM = 384
"""ConvNeXT's processor, the only one with ``crop_pct``, stretches pictures if the shortest edge of the model's input
has at least this many pixels, and crops them otherwise."""


def read(path: Path, model: onnx.ModelProto) -> Stated:
    """Read the companion files of an ONNX file, in its folder and in the parent of a folder called ``onnx``."""
    folders = [path.parent, *([path.parent.resolve().parent] if path.parent.resolve().name == "onnx" else [])]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    stated = _taken(_ultralytics, properties, "Ultralytics", f"the metadata of {path.name}")
    for name, whose, reader in (
        ("config.json", "timm's pretrained_cfg", _timm),
        ("preprocessor_config.json", "Hugging Face", _preprocessor),
        ("config.json", "id2label", _id2label),
    ):
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is not None:
            stated = stated.over(_taken(reader, file, whose, str(file)))
    # config.json is read twice, so each of its problems is listed twice
    return replace(stated, problems=tuple(dict.fromkeys(stated.problems)))


def _taken(
    reader: Callable[[Mapping[str, Any], str], Stated], given: Mapping[str, Any] | Path, whose: str, shown: str
) -> Stated:
    """Read a description from a file or from metadata. If the file is damaged, ``Stated.problems`` says why."""
    where = f"{given.name} ({whose})" if isinstance(given, Path) else f"{shown}, which {whose} wrote"
    try:
        content = json.loads(given.read_text(encoding="utf-8")) if isinstance(given, Path) else given
        if not isinstance(content, Mapping):
            raise _MalformedError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        return Stated(problems=(f"{shown} cannot be read: {reason(error)}",))
    try:
        return reader(content, where)
    except _MalformedError as error:
        return Stated(problems=(f"{shown} cannot be used for {whose}: {error}",))
    except KeyError as error:
        return Stated(problems=(f"{shown} cannot be used for {whose}: it lacks {error}",))
    except (ValueError, TypeError, LookupError, SyntaxError, RecursionError, ZeroDivisionError, AttributeError):
        return Stated(problems=(f"{shown} cannot be used for {whose}: a value is of the wrong kind",))


class _MalformedError(ValueError):
    """A companion file lacks a value or has a wrong value. The message is for the user."""


def _ultralytics(properties: Mapping[str, Any], where: str) -> Stated:
    """Read the Python literals of Ultralytics' exporter: names {0: 'tench', …}, imgsz [224, 224], task classify."""
    if not {"names", "imgsz", "task"} <= properties.keys():
        return Stated()
    if properties["task"] != "classify":
        return Stated(notes=(f"{where} states the task {properties['task']}, not classify, so it is not used",))
    names, size = ast.literal_eval(properties["names"]), ast.literal_eval(properties["imgsz"])
    taken = Stated(_size(size), "crop", "rgb", 255.0, (0.0,), (1.0,))
    stated = _with_labels(replace(taken, scores=PROBABILITIES, sources=(f"{taken} from {where}",)), names, where)
    return replace(stated, sources=(*stated.sources, f"scores are probabilities, from {where}"))


def _timm(content: Mapping[str, Any], where: str) -> Stated:
    config = content.get("pretrained_cfg")
    if config is None:
        return Stated()
    if not isinstance(config, dict):
        raise _MalformedError("it is not a JSON object")
    fits = {"center": "crop", "squash": "stretch", "border": "pad"}
    taken = Stated(
        _size(config["input_size"][-2:]),
        fits[config.get("crop_mode") or "center"],
        "rgb",
        255.0,
        _numbers(config["mean"]),
        _numbers(config["std"]),
    )
    notes = _differences(where, config.get("interpolation") or "bicubic", config.get("crop_pct") or 0.875)
    stated = replace(taken, sources=(f"{taken} from {where}",), notes=notes)
    names = config.get("label_names") or content.get("label_names")
    return stated if names is None else _with_labels(stated, dict(enumerate(names)), where)


def _preprocessor(content: Mapping[str, Any], where: str) -> Stated:
    """Read the settings of an image processor, such as the size, the mean and the order of the channels."""
    if not {"image_mean", "size", "crop_size", "do_rescale"} & content.keys():
        return Stated()
    if unknown := [key for key in content if content[key] not in (None, False) and key not in _STEPS | _HARMLESS]:
        raise _MalformedError(f"hangtag does not know what {named(unknown)} does to pictures")
    kind = str(content.get("image_processor_type") or content.get("feature_extractor_type"))
    size, crops = content.get("size"), bool(content.get("do_center_crop", False))
    given = content.get("crop_size", size) if crops else size
    edges = None if given is None else _size(given)
    share = content.get("crop_pct")
    if crops and edges is not None and size is not None:
        share = (share or 1) * min(edges) / min(_size(size))
    if crops and (content.get("do_resize") is False or (share or 1) > 1):
        why = "do_center_crop is set, but pictures are not scaled first, or are scaled to less than crop_size"
        raise _MalformedError(why)
    shortest = size.get("shortest_edge") if isinstance(size, dict) else None
    squashes = shortest is not None and not crops and "crop_pct" in content and shortest >= _SQUASHED_FROM
    scaled = content.get("do_rescale", True)
    mean, std = _numbers(0), _numbers(1)
    if normalised := content.get("do_normalize", "image_mean" in content):
        mean, std = _numbers(content["image_mean"]), _numbers(content["image_std"])
    # EfficientNet's processor divides by image_std a second time
    if content.get("include_top", kind.startswith("EfficientNet")):
        std = tuple(value * value if normalised else value for value in _numbers(content["image_std"]))
    if scaled and content.get("rescale_offset"):  # the processor subtracts 1 after it has multiplied by rescale_factor
        mean = tuple(value + 1 for value in mean)
    flips = content.get("do_flip_channel_order", kind.startswith("MobileViT"))
    if flips and max(len(mean), len(std)) > 1:
        raise _MalformedError("hangtag does not know whether do_flip_channel_order comes before image_mean")
    taken = Stated(
        edges,
        "crop" if (shortest is not None and not squashes) or (crops and not isinstance(size, dict)) else "stretch",
        "bgr" if flips else "rgb",
        round(1 / float(content.get("rescale_factor", 1 / 255)), 6) if scaled else 1.0,
        mean,
        std,
    )
    notes = _differences(where, content.get("resample"), None if squashes else share)
    return replace(taken, sources=(f"{taken} from {where}",), notes=notes)


def _id2label(content: Mapping[str, Any], where: str) -> Stated:
    names = content.get("id2label")
    return Stated() if names is None else _with_labels(Stated(), names, where)


def _differences(where: str, interpolation: object, share: object) -> tuple[str, ...]:
    notes = []
    if interpolation not in _BILINEAR:
        kinds = {0: "nearest", 1: "lanczos", 3: "bicubic", 4: "box", 5: "hamming"}
        kind = kinds.get(interpolation, interpolation) if isinstance(interpolation, int) else interpolation
        notes.append(f"{where} scales pictures by the method {kind}; hangtag scales them bilinearly")
    if isinstance(share, int | float) and 0 < share < 1:
        notes.append(f"{where} keeps the middle {share:.1%} of a picture's shorter edge; hangtag keeps all of it")
    return tuple(notes)


def _with_labels(stated: Stated, names: Any, where: str) -> Stated:
    """Add labels, ordered by index."""
    try:
        by_place = {int(place): str(name).strip() for place, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        by_place = {}
    if sorted(by_place) != list(range(len(by_place))) or not by_place or not all(by_place.values()):
        raise _MalformedError("its labels do not have the numbers 0, 1, 2 and so on, or a label has no name")
    labels, notes = distinct([by_place[place] for place in range(len(by_place))], where)
    sources = (*stated.sources, f"{len(labels)} labels from {where}")
    return replace(stated, labels=labels, sources=sources, notes=(*stated.notes, *notes))


def distinct(labels: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Append the index to each label that occurs more than once. Returns all labels, and a note about the changes."""
    counts = Counter(labels)
    repeated = [label for label, count in counts.items() if count > 1]
    note = f"{where} repeats {named(repeated)}, so the index was appended to each of these labels"
    unique = (f"{label} ({place})" if counts[label] > 1 else label for place, label in enumerate(labels))
    return tuple(unique), (note,) * bool(repeated)


def _size(value: Any) -> tuple[int, int]:
    """Read height and width from 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(value, dict):
        value = value["shortest_edge"] if "shortest_edge" in value else [value["height"], value["width"]]
    height, width = (value, value) if isinstance(value, int) else value
    if not (type(height) is type(width) is int) or min(height, width) < 1:
        raise _MalformedError(f"{value} is not a size")
    return height, width


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),)
    if len(numbers) not in (1, 3):
        raise _MalformedError(f"{value} is not 1 or 3 numbers")
    return numbers
