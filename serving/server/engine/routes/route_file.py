"""Reads a route, ``<models>/<name>/route.toml``: which models answer, and which of them answers what.

A cascade lets its first member answer every sample, and only those of which it is not sure go on to the next one:

    cascade = ["lstm", "cnn"]
    accept = {output = "probabilities", at_least = 0.9}     # or margin_at_least, or entropy_at_most
    on_overload = "answer"      # or "refuse": what becomes of a sample that the next member cannot take in time
    expected_sent_on = 0.168    # optional: the share that went on when the rule was chosen, for the alert

A split sends each call to one of its members, by weight:

    split = {cnn = 90, "cnn@1" = 10}
    sticky = "x-user-id"        # calls with the same value of this metadata key go to the same member

Either may have a shadow, which gets copies of some requests, whose answers are compared and thrown away:

    shadow = {model = "lstm2", share = 0.1}

And a text for people, which ModelConfig and the page show:

    description = "Chosen by 'hangtag route tune lstm cnn'."
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.serving.model_repository import ModelRepositoryError, is_model_name, read_toml
from hangtag.serving.server.engine.routes.acceptance import RULES, Acceptance
from hangtag.serving.server.errors import StartError

_KINDS = ("cascade", "split")
_OF_BOTH = ("shadow", "description")
_KEYS = {
    "cascade": ("cascade", "accept", "on_overload", "expected_sent_on", *_OF_BOTH),
    "split": ("split", "sticky", *_OF_BOTH),
}
_ALL_KEYS = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))
ANSWER, REFUSE = "answer", "refuse"
_METADATA_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,255}(?<!-bin)")
"""A key of gRPC's metadata with a text for a value, which callers may send; over HTTP it is a header."""


@dataclass(frozen=True)
class Member:
    """A model that a route sends samples to. version: empty for the one that serves by default."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class ShadowSettings:
    """Which model gets copies, of which share of the requests, above 0 and at most 1."""

    member: Member
    share: float


@dataclass(frozen=True)
class CascadeSettings:
    """A cascade.

    Args:
        members: At least two.
        acceptance: Decides which samples go on.
        on_overload: ANSWER or REFUSE.
        shadow: None for none.
        description: For people.
        expected_sent_on: The share of the samples that went on to the second member when the rule was chosen, which
            the metrics export beside the share that does; None where it is not known.
    """

    members: tuple[Member, ...]
    acceptance: Acceptance
    on_overload: str = ANSWER
    shadow: ShadowSettings | None = None
    description: str = ""
    expected_sent_on: float | None = None


@dataclass(frozen=True)
class SplitSettings:
    """A split. weights: one for each member, above 0; sticky: a metadata key in lower case, empty for none."""

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    sticky: str = ""
    shadow: ShadowSettings | None = None
    description: str = ""


RouteSettings = CascadeSettings | SplitSettings


def read(file: Path) -> RouteSettings:
    """Read a route's settings.

    Raises:
        StartError: The file cannot be read as TOML, or has an unknown key or a value that is not valid.
    """
    try:
        values = read_toml(file)
    except FileNotFoundError as error:
        raise StartError(f"{file} cannot be read as TOML: {error}") from error
    except ModelRepositoryError as error:
        raise StartError(str(error)) from error
    try:
        return _settings(values)
    except ValueError as error:
        raise StartError(f"{file}: {error}") from error


def _settings(values: Mapping[str, Any]) -> RouteSettings:
    kinds = [kind for kind in _KINDS if kind in values]
    kind, keys = (kinds[0], _KEYS[kinds[0]]) if len(kinds) == 1 else ("route", _ALL_KEYS)
    for key in values:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}; a {kind} may have {', '.join(keys)}")
    if len(kinds) != 1:
        raise ValueError(
            f"a route has one of the keys {' and '.join(_KINDS)}; this one has {' and '.join(kinds) or 'none'}"
        )
    return _cascade(values) if kind == "cascade" else _split(values)


def _cascade(values: Mapping[str, Any]) -> CascadeSettings:
    listed = values["cascade"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise ValueError('cascade must be a list of at least two models, such as ["lstm", "cnn"]')
    members = tuple(_member(text) for text in listed)
    if len(set(members)) < len(members):
        raise ValueError(f"cascade names a model twice: {', '.join(map(str, members))}")
    on_overload = values.get("on_overload", ANSWER)
    if on_overload not in (ANSWER, REFUSE):
        raise ValueError(f'on_overload must be "{ANSWER}" or "{REFUSE}", not {on_overload!r}')
    expected = values.get("expected_sent_on")
    is_number = isinstance(expected, int | float) and not isinstance(expected, bool)
    if expected is not None and not (is_number and 0 <= expected <= 1):
        raise ValueError(f"expected_sent_on must be a share of the samples from 0 to 1, not {expected!r}")
    return CascadeSettings(
        members,
        _acceptance(values.get("accept")),
        on_overload,
        expected_sent_on=None if expected is None else float(expected),
        **_of_both(values),
    )


def _acceptance(value: Any) -> Acceptance:
    expected = 'such as {output = "probabilities", at_least = 0.9}'
    if not isinstance(value, dict) or not isinstance(value.get("output"), str):
        raise ValueError(f"a cascade needs accept with the name of an output, {expected}")  # noqa: TRY004
    rules = [key for key in value if key != "output"]
    if len(rules) != 1 or rules[0] not in RULES:
        raise ValueError(f"accept needs one of {', '.join(RULES)}, {expected}; it has {', '.join(rules) or 'none'}")
    (rule,) = rules
    bound = value[rule]
    if not isinstance(bound, int | float) or isinstance(bound, bool) or not 0 <= bound <= RULES[rule]:
        raise ValueError(f"accept: {rule} must be a number from 0 to {RULES[rule]:g}, not {bound!r}")
    return Acceptance(value["output"], rule, float(bound))


def _split(values: Mapping[str, Any]) -> SplitSettings:
    listed = values["split"]
    if not isinstance(listed, dict) or not listed:
        raise ValueError('split must be a table of weights, such as {cnn = 90, "cnn@1" = 10}')
    for text, weight in listed.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight <= 100:
            raise ValueError(f"split: the share of {text!r} must be a number above 0 and up to 100, not {weight!r}")
    total = sum(listed.values())
    if abs(total - 100) > 1e-6:
        raise ValueError(f"split: the shares must add up to 100 (percent); these add up to {total:g}")
    sticky = values.get("sticky", "")
    if not isinstance(sticky, str) or (sticky and not _METADATA_KEY.fullmatch(sticky)):
        raise ValueError(
            'sticky must be the name of a metadata key in lower case, such as "x-user-id", of letters, digits and _.-, '
            f'without "grpc-" before or "-bin" after it; not {sticky!r}'
        )
    members = tuple(_member(text) for text in listed)
    return SplitSettings(members, tuple(map(float, listed.values())), sticky, **_of_both(values))


def _of_both(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both kinds of a route have."""
    description = values.get("description", "")
    if not isinstance(description, str):
        raise ValueError(f"description must be a text, not {description!r}")  # noqa: TRY004
    return {"shadow": _shadow(values), "description": description}


def _shadow(values: Mapping[str, Any]) -> ShadowSettings | None:
    if "shadow" not in values:
        return None
    value = values["shadow"]
    if not isinstance(value, dict) or set(value) != {"model", "share"}:
        has = ", ".join(value) if isinstance(value, dict) else repr(value)
        raise ValueError(
            f'shadow must have a model and a share, such as {{model = "lstm", share = 0.1}}; it has {has or "none"}'
        )
    share = value["share"]
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
        raise ValueError(f"shadow: share must be a number above 0 and at most 1, not {share!r}")
    return ShadowSettings(_member(value["model"]), float(share))


def _member(text: Any) -> Member:
    name, at, version = text.partition("@") if isinstance(text, str) else ("", "", "")
    if not is_model_name(name) or (at and not (version.isascii() and version.isdigit() and version[0] != "0")):
        raise ValueError(f'{text!r} is not a model; name it as "cnn" or, with a version, as "cnn@1"')
    return Member(name, version)
