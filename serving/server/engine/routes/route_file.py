"""Reads a route's file, ``<models>/<name>/route.toml``: which models answer, and which requests or samples each gets.

docs/reference/routes.md describes the keys. A cascade with a shadow:

    cascade = ["lstm", "cnn"]
    accept = {output = "probabilities", at_least = 0.9}
    shadow = {model = "lstm2", share = 0.1}
"""

import hashlib
import math
import random
import re
import reprlib
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import is_number
from hangtag.serving.model_repository import is_model_name, read_toml
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.server_state import StageKey
from hangtag.serving.signature import Signature

ROUTE_VERSION = "1"
"""The version of every route. Each model behind a route has its own version."""
ANSWER, REFUSE = "answer", "refuse"
_KEYS = {
    "cascade": ("cascade", "accept", "on_overload", "expected_sent_on", "shadow", "description"),
    "split": ("split", "sticky", "shadow", "description"),
}
_EXPECTED = {
    "cascade": 'a list of at least two different models, such as ["lstm", "cnn"]',
    "accept": (
        'an output and one rule, such as {output = "probabilities", at_least = 0.9} (the rules are at_least and '
        "margin_at_least, from 0 to 1, and entropy_at_most, from 0 to 64)"
    ),
    "on_overload": f'"{ANSWER}" or "{REFUSE}"',
    "expected_sent_on": "a share of the samples from 0 to 1",
    "split": 'a table of models, whose shares are above 0 and add up to 100 (percent), as in {cnn = 90, "cnn@1" = 10}',
    "sticky": (
        'a metadata key, such as "x-user-id", of lower-case letters, digits and _.-, that does not begin with "grpc-" '
        'or end with "-bin"'
    ),
    "shadow": 'a model, and a share above 0 and at most 1, such as {model = "lstm", share = 0.1}',
    "description": "a text",
}
_RULES = {"at_least": 1.0, "margin_at_least": 1.0, "entropy_at_most": 64.0}
"""The largest sensible bound of each rule, for a probability, a difference of probabilities, and an entropy in bits."""
_LOGITS = "logits"
"""An output of hangtag's models: the values before the softmax. It has the same shape as the probabilities."""
FLOATS = ("FP16", "FP32", "FP64")
"""Datatypes of probabilities."""
_METADATA_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,255}(?<!-bin)")
"""A gRPC metadata key that callers may send with a text value. Over HTTP, the key is a header."""


class Member(NamedTuple):
    """A model to which a route sends samples. Without a ``version``, this is the default version."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


class ShadowSettings(NamedTuple):
    """Which model gets copies, and the share of requests that are copied, above 0 and at most 1."""

    member: Member
    share: float


@dataclass(frozen=True)
class Acceptance:
    """A cascade accepts an answer by this rule, one of _RULES, on an output of probabilities [batch, labels]."""

    output: str
    rule: str
    bound: float

    def accepts(self, probabilities: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which samples of ``probabilities``, [batch, labels], are accepted; a sample with a NaN is not."""
        if self.rule == "at_least":
            return np.asarray(probabilities.max(axis=1) >= self.bound)
        if self.rule == "margin_at_least":
            second, highest = np.partition(probabilities, -2, axis=1)[:, -2:].T
            return np.asarray(highest - second >= self.bound)
        # A probability of 0 adds nothing to the entropy.
        values = probabilities.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(values > 0, -values * np.log2(values), np.where(values == 0, 0.0, math.nan))
        return np.asarray(bits.sum(axis=1) <= self.bound)

    def problem(self, signature: Signature) -> str:
        """Return why the rule cannot be applied to models with this signature, or ""."""
        if not signature.batched:
            return f"a cascade decides for each sample, but its models do not accept batches: {signature.why_unbatched}"
        free = [str(spec) for spec in signature.outputs if None in spec.shape[1:]]
        if free:
            return f"a cascade joins the members' answers, so outputs must not have free sizes: {'; '.join(free)}"
        spec = signature.output(self.output)
        is_known = spec is not None and spec.name != _LOGITS and spec.datatype in FLOATS
        if spec is None or not is_known or len(spec.shape) != 2 or (spec.shape[1] or 0) < 2:
            listed = "; ".join(map(str, signature.outputs))
            return (
                f"accept: output must be the name of an output [batch, labels] with floating-point probabilities of at "
                f"least two labels, not {self.output!r} ({_LOGITS!r} has no probabilities). The outputs are {listed}"
            )
        return ""


@dataclass(frozen=True, kw_only=True)
class RouteSettings:
    """The content of a route's file."""

    members: tuple[Member, ...]
    acceptance: Acceptance | None = None
    """The rule that decides which samples of a cascade are passed on to the next member; None for a split."""
    on_overload: str = ANSWER
    expected_escalation_rate: float | None = None
    """The share of samples passed on to a cascade's second member when the rule was chosen; None if unknown."""
    weights: tuple[float, ...] = ()
    """The weight of each member of a split, above 0."""
    sticky: str = ""
    """The metadata key of a sticky split, in lower case. Empty if the route has no such key."""
    shadow: ShadowSettings | None = None
    description: str = ""

    @cached_property
    def stages(self) -> tuple[StageKey, ...]:
        """The stage of each member. All members of a split are in one stage."""
        return tuple((1 if self.weights else stage, str(member)) for stage, member in enumerate(self.members, start=1))

    def chosen(self, route: str, key: str) -> int:
        """Choose a member of a split by weight, and return its index. All calls with the same value of the sticky key
        get the same member; calls without a ``key`` choose at random. Each member gets a range of hashes in proportion
        to its weight, so a change of the weights moves few keys. The route's name is hashed too, because two nested
        splits may have the same sticky key."""
        if key:
            digest = hashlib.blake2b(f"{route}\0{key}".encode(), digest_size=8).digest()
            point = int.from_bytes(digest) / 2**64
        else:
            point = random.random()  # noqa: S311 - chooses a model, not a secret
        bounds = list(accumulate(self.weights))
        return min(bisect(bounds, point * bounds[-1]), len(bounds) - 1)

    def compared_output(self, signature: Signature) -> str:
        """Return the name of the output to compare with the shadow's. The index of its highest value is the label.
        Raises StartError if there is no such output."""
        if self.acceptance is not None:
            return self.acceptance.output
        for spec in signature.outputs:
            if spec.datatype in FLOATS and len(spec.shape) == 2:
                return spec.name
        raise StartError("a shadow compares labels, so the models need a floating-point output [batch, labels]")


def read(file: Path) -> RouteSettings:
    """Read a route's settings. Raises ModelRepositoryError if the file is not TOML, and StartError if it does not
    exist, or has an unknown key or an invalid value."""
    try:
        values = read_toml(file)
    except FileNotFoundError as error:
        raise StartError(f"{file} cannot be read as TOML: {error}") from error
    try:
        return _settings(values)
    except ValueError as error:
        raise StartError(f"{file}: {error}") from error


def _settings(values: Mapping[str, Any]) -> RouteSettings:
    kinds = [kind for kind in _KEYS if kind in values]
    if len(kinds) != 1:
        keys = ", ".join(values) or "none"
        raise ValueError(
            f"a route must have exactly one of the keys {' and '.join(_KEYS)}; the keys of this route: {keys}"
        )
    (kind,) = kinds
    settings: dict[str, Any] = {}
    for key, value in ({**values, "accept": values.get("accept")} if kind == "cascade" else values).items():
        if key not in _KEYS[kind]:
            raise ValueError(f"unknown key {key!r}; a {kind} may have {', '.join(_KEYS[kind])}")
        settings |= _fields(key, value)
    return RouteSettings(**settings)


def _fields(key: str, value: Any) -> dict[str, Any]:
    """Return the fields of RouteSettings that a key sets, or raise ValueError."""
    match key, value:
        case "cascade", [_, _, *_] if len({str(text) for text in value}) == len(value):
            return {"members": tuple(map(_member, value))}
        case "accept", {"output": str(output), **others} if len(others) == 1:
            for rule, largest in _RULES.items():
                if rule in others and is_number(value[rule]) and 0 <= value[rule] <= largest:
                    return {"acceptance": Acceptance(output, rule, float(value[rule]))}
        case "on_overload", "answer" | "refuse":
            return {"on_overload": value}
        case "expected_sent_on", share if is_number(share) and 0 <= share <= 1:
            return {"expected_escalation_rate": float(share)}
        case "split", dict() if all(is_number(share) and share > 0 for share in value.values()):
            if abs(sum(value.values()) - 100) <= 1e-6:
                return {"members": tuple(map(_member, value)), "weights": tuple(map(float, value.values()))}
        case "sticky", str() if not value or _METADATA_KEY.fullmatch(value):
            return {"sticky": value}
        case "shadow", {"model": model, "share": share, **others} if not others and is_number(share) and 0 < share <= 1:
            return {"shadow": ShadowSettings(_member(model), float(share))}
        case "description", str():
            return {"description": value}
    raise ValueError(f"{key} must be {_EXPECTED[key]}, not {reprlib.repr(value)}")


def _member(text: Any) -> Member:
    name, at, version = text.partition("@") if isinstance(text, str) else ("", "", "")
    if not is_model_name(name) or (at and not (version.isascii() and version.isdigit() and version[0] != "0")):
        raise ValueError(f'{text!r} does not name a model; write "cnn" or, with a version, "cnn@1"')
    return Member(name, version)
