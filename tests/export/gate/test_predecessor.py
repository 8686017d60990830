"""The gate's comparison with the version that serves: which difference chance explains, and which it does not."""

import json
from collections import defaultdict
from itertools import permutations
from pathlib import Path

import pytest

from hangtag.export.errors import GateError
from hangtag.export.file.quality import Quality, read
from hangtag.export.gate.check import PassedCheck
from hangtag.export.gate.checks import predecessor

ROOT = Path(__file__).parents[3]


def compare(own: float, serving: float, images: int = 10_000, *, even_if_worse: bool = False) -> PassedCheck:
    qualities = [Quality("test_accuracy", share, "digest") for share in (own, serving)]
    return predecessor.check(qualities[0], images, qualities[1], 2, even_if_worse=even_if_worse, remedy="Add --x.")


@pytest.mark.parametrize(("own", "serving"), [(0.9309, 0.9309), (0.9499, 0.9309), (0.926, 0.9309), (1.0, 1.0), (0, 0)])
def test_an_equal_or_better_model_passes(own: float, serving: float) -> None:
    check = compare(own, serving)
    assert check.summary == f"test accuracy {own:.2%}, and version 2, which serves, has {serving:.2%}"
    assert check.figures["worse"] is False


def test_a_worse_one_is_refused_with_both_figures_and_what_to_do() -> None:
    with pytest.raises(GateError) as refused:
        compare(0.73, 0.9309)
    assert str(refused.value) == (
        "predecessor: test accuracy 73.00%, and version 2, which serves, has 93.09%. "
        "It is 20.09 points worse, and chance explains 0.87. Add --x. Nothing was published."
    )
    check = compare(0.73, 0.9309, even_if_worse=True)
    assert check.summary.startswith("WORSE, published all the same: test accuracy 73.00%")
    assert check.figures["worse"] is True


def test_fewer_images_explain_a_larger_difference() -> None:
    with pytest.raises(GateError):
        compare(0.91, 0.93)
    assert compare(0.91, 0.93, images=300).figures["worse"] is False


def test_no_seed_of_a_recipe_of_the_study_is_refused_after_another() -> None:
    """Seeds differ by chance alone, so the bound must cover them."""
    shares = defaultdict(list)
    for line in (ROOT / "studies/accuracy/results.jsonl").read_text().splitlines():
        result = json.loads(line)
        if result["recipe"] == "study":
            shares[result["model"]].append(result["test_accuracy"])
    pairs = [pair for group in shares.values() for pair in permutations(group, 2)]
    assert len(pairs) >= 40
    for own, serving in pairs:
        assert compare(own, serving).figures["worse"] is False, (own, serving)


def test_a_quality_is_read_from_metadata() -> None:
    assert read({"test_accuracy": "0.9309", "data_digest": "d"}) == Quality("test_accuracy", 0.9309, "d")
    assert read({"test_exact_match": "0.5"}) == Quality("test_exact_match", 0.5, "")
    for metadata in ({}, {"test_accuracy": "much"}, {"test_accuracy": "nan"}, {"test_accuracy": "7"}):
        assert read(metadata) is None
