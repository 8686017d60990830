"""Reads a route's file, ``<models>/<name>/route.toml``: which models answer, and which requests or samples each gets.

docs/reference/routes.md describes the keys. A cascade with a shadow:

    cascade = ["lstm", "cnn"]
    accept = {output = "probabilities", at_least = 0.9}
    shadow = {model = "lstm2", share = 0.1}
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import is_number
from hangtag.serving.model_repository import is_model_name, read_toml
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.server_state import StageKey
from hangtag.serving.signature import Signature

_OF_BOTH = ("shadow", "description")
_KEYS = {
    "cascade": ("cascade", "accept", "on_overload", "expected_sent_on", *_OF_BOTH),
    "split": ("split", "sticky", *_OF_BOTH),
}
ANSWER, REFUSE = "answer", "refuse"
_RULES = {"at_least": 1.0, "margin_at_least": 1.0, "entropy_at_most": 64.0}
"""The largest sensible bound of each rule, for a probability, a difference of probabilities, and an entropy in bits."""
_LOGITS = "logits"
"""The output of hangtag's models before the softmax, which has the probabilities' shape but is not a distribution."""
FLOATS = ("FP16", "FP32", "FP64")
"""Datatypes of probabilities."""
_METADATA_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,255}(?<!-bin)")
"""A gRPC metadata key that callers may send with a text value. Over HTTP, the key is a header."""


class Member(NamedTuple):
    """A model to which a route sends samples. Without a ``version``, this is the version that serves by default."""

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
    """A rule, one of _RULES, on an output of probabilities [batch, labels]."""

    output: str
    rule: str
    bound: float

    def accepts(self, probabilities: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which samples of ``probabilities``, [batch, at least two labels], are accepted. A sample with a NaN is
        not accepted."""
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
        free = [str(spec) for spec in signature.outputs if None in spec.shape[1:]]
        if free:
            return f"a cascade joins the members' answers, so outputs must not have free sizes: {'; '.join(free)}"
        spec = signature.output(self.output)
        if spec is None:
            listed = ", ".join(output.name for output in signature.outputs)
            return f"accept: the models have no output {self.output!r}; they have {listed}"
        if spec.name == _LOGITS:
            others = ", ".join(output.name for output in signature.outputs if output.name != _LOGITS)
            return f"accept: {_LOGITS} are not probabilities; name another output (the models have {others or 'none'})"
        if spec.datatype not in FLOATS or len(spec.shape) != 2 or (spec.shape[1] or 0) < 2:
            return f"accept: the output {spec} is not probabilities of at least two labels, [batch, labels]"
        if not signature.batched:
            return f"a cascade decides for each sample, but the models are not batched: {signature.why_unbatched}"
        return ""


@dataclass(frozen=True, kw_only=True)
class RouteSettings:
    """The content of a route's file."""

    members: tuple[Member, ...]
    acceptance: Acceptance | None = None
    """The rule that decides which samples of a cascade are passed on to the next member; None for a split."""
    on_overload: str = ANSWER
    expected_escalation_rate: float | None = None
    """The share of samples that were passed on to a cascade's second member when the rule was chosen; None if unknown.
    """
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
    kind = kinds[0] if len(kinds) == 1 else "route"
    keys = _KEYS.get(kind) or tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))
    for key in values:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}; a {kind} may have {', '.join(keys)}")
    if len(kinds) != 1:
        raise ValueError(
            f"a route must have one of the keys {' and '.join(_KEYS)}; this route has {' and '.join(kinds) or 'none'}"
        )
    description = values.get("description", "")
    if not isinstance(description, str):
        raise ValueError(f"description must be a text, not {description!r}")  # noqa: TRY004
    shadow = _shadow(values["shadow"]) if "shadow" in values else None
    of_kind = _cascade(values) if kind == "cascade" else _split(values)
    return RouteSettings(shadow=shadow, description=description, **of_kind)


def _cascade(values: Mapping[str, Any]) -> dict[str, Any]:
    listed = values["cascade"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise ValueError('cascade must be a list of at least two models, such as ["lstm", "cnn"]')
    members = tuple(_member(text) for text in listed)
    if len(set(members)) < len(members):
        raise ValueError(f"cascade names a model twice: {', '.join(map(str, members))}")
    acceptance = _acceptance(values.get("accept"))
    on_overload = values.get("on_overload", ANSWER)
    if on_overload not in (ANSWER, REFUSE):
        raise ValueError(f'on_overload must be "{ANSWER}" or "{REFUSE}", not {on_overload!r}')
    expected = values.get("expected_sent_on")
    if expected is not None and not (is_number(expected) and 0 <= expected <= 1):
        raise ValueError(f"expected_sent_on must be a share of the samples from 0 to 1, not {expected!r}")
    return {
        "members": members,
        "acceptance": acceptance,
        "on_overload": on_overload,
        "expected_escalation_rate": None if expected is None else float(expected),
    }


def _acceptance(value: Any) -> Acceptance:
    expected = 'such as {output = "probabilities", at_least = 0.9}'
    if not isinstance(value, dict) or not isinstance(value.get("output"), str):
        raise ValueError(f"a cascade needs the key 'accept' with the name of an output, {expected}")  # noqa: TRY004
    rules = [key for key in value if key != "output"]
    if len(rules) != 1 or rules[0] not in _RULES:
        raise ValueError(
            f"'accept' needs exactly one of {', '.join(_RULES)}, {expected}; it has {', '.join(rules) or 'none'}"
        )
    (rule,) = rules
    bound = value[rule]
    if not (is_number(bound) and 0 <= bound <= _RULES[rule]):
        raise ValueError(f"accept: {rule} must be a number from 0 to {_RULES[rule]:g}, not {bound!r}")
    return Acceptance(value["output"], rule, float(bound))


def _split(values: Mapping[str, Any]) -> dict[str, Any]:
    listed = values["split"]
    if not isinstance(listed, dict) or not listed:
        raise ValueError('split must be a table of weights, such as {cnn = 90, "cnn@1" = 10}')
    for text, weight in listed.items():
        if not (is_number(weight) and 0 < weight <= 100):
            raise ValueError(f"split: the share of {text!r} must be a number above 0 and up to 100, not {weight!r}")
    total = sum(listed.values())
    if abs(total - 100) > 1e-6:
        raise ValueError(f"split: the shares must add up to 100 (percent), not to {total:g}")
    sticky = values.get("sticky", "")
    if not isinstance(sticky, str) or (sticky and not _METADATA_KEY.fullmatch(sticky)):
        raise ValueError(
            'sticky must name a metadata key, such as "x-user-id", of lower-case letters, digits and _.-, '
            f'that does not begin with "grpc-" or end with "-bin"; it is {sticky!r}'
        )
    members = tuple(_member(text) for text in listed)
    return {"members": members, "weights": tuple(map(float, listed.values())), "sticky": sticky}


def _shadow(value: Any) -> ShadowSettings:
    if not isinstance(value, dict) or set(value) != {"model", "share"}:
        has = ", ".join(value) if isinstance(value, dict) else repr(value)
        raise ValueError(
            f'shadow must have a model and a share, such as {{model = "lstm", share = 0.1}}; it has {has or "none"}'
        )
    share = value["share"]
    if not (is_number(share) and 0 < share <= 1):
        raise ValueError(f"shadow: share must be a number above 0 and at most 1, not {share!r}")
    return ShadowSettings(_member(value["model"]), float(share))


def _member(text: Any) -> Member:
    name, at, version = text.partition("@") if isinstance(text, str) else ("", "", "")
    if not is_model_name(name) or (at and not (version.isascii() and version.isdigit() and version[0] != "0")):
        raise ValueError(f'{text!r} does not name a model; write "cnn" or, with a version, "cnn@1"')
    return Member(name, version)
