"""What the files that lie with a network say about it: those of timm and Hugging Face, and Ultralytics' metadata.

Each program writes how it prepares pictures, and the names of its labels. hangtag scales pictures
bilinearly, and cuts no border off before; where a program does otherwise, a note says so.
"""

import ast
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export.third_party.preprocessing import PROBABILITIES, Stated
from hangtag.printable import named

_BILINEAR = (2, "bilinear", None)
"""Pillow's number for it, and its name."""


def read(path: Path, model: onnx.ModelProto) -> Stated:
    """Read what lies with an ONNX file: in its folder, or in the folder above one that is called ``onnx``."""
    folders = [path.parent, *([path.parent.resolve().parent] if path.parent.resolve().name == "onnx" else [])]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    readers: list[tuple[Callable[[Mapping[str, Any], str], Stated], Mapping[str, Any], str]] = [
        (_ultralytics, properties, f"the metadata of {path.name}, which Ultralytics wrote")
    ]
    for name, reader, whose in (
        ("config.json", _timm, "timm's pretrained_cfg"),
        ("preprocessor_config.json", _preprocessor, "Hugging Face"),
        ("config.json", _id2label, "id2label"),
    ):
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is not None and (content := _json(file)) is not None:
            readers.append((reader, content, f"{name} ({whose})"))
    stated = Stated()
    for read_one, stated_by, where in readers:
        try:
            stated = stated.over(read_one(stated_by, where))
        except (ValueError, TypeError, LookupError, SyntaxError, RecursionError, ZeroDivisionError) as error:
            note = f"{where} cannot be read ({type(error).__name__} {error}): nothing was taken"
            stated = replace(stated, notes=(*stated.notes, note))
    return stated


def _ultralytics(properties: Mapping[str, Any], where: str) -> Stated:
    """Ultralytics' exporter writes Python literals: names {0: 'tench', …}, imgsz [224, 224], task classify."""
    if not {"names", "imgsz", "task"} <= properties.keys():
        return Stated()
    if properties["task"] != "classify":
        return Stated(notes=(f"{where} says task {properties['task']}, which is no classifier: nothing was taken",))
    names, size = ast.literal_eval(properties["names"]), ast.literal_eval(properties["imgsz"])
    taken = Stated(_size(size), "crop", "rgb", 255.0, (0.0,), (1.0,))
    stated = _with_labels(replace(taken, scores=PROBABILITIES, sources=(f"{taken} from {where}",)), names, where)
    return replace(stated, sources=(*stated.sources, f"scores are probabilities, from {where}"))


def _timm(content: Mapping[str, Any], where: str) -> Stated:
    config = content.get("pretrained_cfg")
    if not isinstance(config, dict):
        return Stated()
    fits = {"center": "crop", "squash": "stretch", "border": "pad"}
    taken = Stated(
        _size(config["input_size"][-2:]),
        fits[config.get("crop_mode") or "center"],
        "rgb",
        255.0,
        _numbers(config["mean"]),
        _numbers(config["std"]),
    )
    notes = _differences(where, config.get("interpolation"), config.get("crop_pct"))
    stated = replace(taken, sources=(f"{taken} from {where}",), notes=notes)
    names = config.get("label_names") or content.get("label_names")
    return _with_labels(stated, dict(enumerate(names)), where) if isinstance(names, list) else stated


def _preprocessor(content: Mapping[str, Any], where: str) -> Stated:
    if not {"image_mean", "size", "crop_size", "do_rescale"} & content.keys():
        return Stated()
    size, crops = content.get("size"), bool(content.get("do_center_crop", False))
    edges = content.get("crop_size", size) if crops else size
    scaled = content.get("do_rescale", True)
    normalised = content.get("do_normalize", True) and "image_mean" in content
    taken = Stated(
        _size(edges) if edges is not None else None,
        "crop" if crops or (isinstance(size, dict) and "shortest_edge" in size) else "stretch",
        "rgb",
        round(1 / float(content.get("rescale_factor", 1 / 255)), 6) if scaled else 1.0,
        _numbers(content["image_mean"]) if normalised else (0.0,),
        _numbers(content["image_std"]) if normalised else (1.0,),
    )
    smaller = content.get("crop_pct")
    if crops and taken.size and isinstance(size, dict) and "shortest_edge" in size:
        smaller = min(taken.size) / float(size["shortest_edge"])
    notes = _differences(where, content.get("resample"), smaller)
    return replace(taken, sources=(f"{taken} from {where}",), notes=notes)


def _id2label(content: Mapping[str, Any], where: str) -> Stated:
    names = content.get("id2label")
    return _with_labels(Stated(), names, where) if isinstance(names, dict) else Stated()


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
    """Labels by their places. Those that are there twice get their places into their names."""
    try:
        by_place = {int(place): str(name).strip() for place, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        by_place = {}
    if sorted(by_place) != list(range(len(by_place))) or not by_place or not all(by_place.values()):
        return replace(stated, notes=(*stated.notes, f"the labels of {where} are not numbered from 0: none was taken"))
    counts = Counter(by_place.values())
    labels = [by_place[place] for place in range(len(by_place))]
    unique = tuple(f"{label} ({place})" if counts[label] > 1 else label for place, label in enumerate(labels))
    notes = stated.notes
    if repeated := [label for label, count in counts.items() if count > 1]:
        notes = (*notes, f"{where} names {named(repeated)} more than once, so these got their places into their names")
    sources = (*stated.sources, f"{len(unique)} labels from {where}")
    return replace(stated, labels=unique, sources=sources, notes=notes)


def _json(file: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # many programs have a config.json; one that is no JSON is none of these
    return content if isinstance(content, dict) else None


def _size(value: Any) -> tuple[int, int]:
    """Height and width of 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(value, dict):
        value = value["shortest_edge"] if "shortest_edge" in value else [value["height"], value["width"]]
    height, width = (value, value) if isinstance(value, int) else value
    if not (type(height) is type(width) is int) or min(height, width) < 1:
        raise ValueError(f"{value} is no size")
    return height, width


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),)
    if len(numbers) not in (1, 3):
        raise ValueError(f"{value} is not 1 or 3 numbers")
    return numbers
