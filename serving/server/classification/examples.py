"""The pictures to try a classifier with that its file has, with their labels."""

import json

from hangtag.serving.signature import Signature


def examples(signature: Signature) -> list[dict[str, str]]:
    """Read ``hangtag.examples``, a JSON list of objects with a label's index, and a PNG file in base64.

    Returns:
        For each example its ``label``, and ``png``; nothing where one is malformed, since only people look at them.
    """
    try:
        kept = json.loads(signature.metadata.get("examples", "[]"))
        return [{"label": signature.labels[label], "png": png} for label, png in map(_read, kept)]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []


def _read(example: object) -> tuple[int, str]:
    match example:
        case {"label": int(label), "png": str(png)} if label >= 0:
            return label, png
    raise ValueError
