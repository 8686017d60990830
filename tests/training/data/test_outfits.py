"""The canvases of `outfits`: the labels that occur together, and the garments that a canvas shows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from hangtag.training.data.outfits import LOOKS, Wardrobe, compose, independent, load, together
from tests.kit import garments
from tests.kit.garments import LABELS, Split

pytestmark = pytest.mark.slow

Probabilities = npt.NDArray[np.float64]
SETS = np.arange(1 << len(LABELS))
MEMBERS = np.array([[bool(label_set >> label & 1) for label in range(len(LABELS))] for label_set in SETS])
COUNT = MEMBERS.sum(axis=1)
SMALL = {"train": 100, "validation": 40, "test": 60}


def frequencies(probabilities: Probabilities) -> Probabilities:
    shares: Probabilities = probabilities @ MEMBERS
    return shares


def mutual_information(probabilities: Probabilities) -> float:
    """The mutual information of the labels in bits: 0 if each label is drawn independently."""

    def entropy(p: Probabilities) -> float:
        return float(-(p[p > 0] * np.log2(p[p > 0])).sum())

    alone = frequencies(probabilities)
    return entropy(alone) + entropy(1 - alone) - entropy(probabilities)


@pytest.mark.parametrize("probabilities", [together, independent])
def test_every_set_has_one_to_five_labels(probabilities: Callable[[], Probabilities]) -> None:
    chances = probabilities()
    assert chances.sum() == pytest.approx(1)
    assert set(COUNT[chances > 0]) == {1, 2, 3, 4, 5}


def test_looks_have_the_frequencies_of_the_table_and_no_other_set_occurs() -> None:
    chances = together()
    weights = sum(look.weight for look in LOOKS)
    sport = sum(1 << LABELS.index(piece) for piece in ("T-shirt/top", "Sneaker", "Trouser"))
    assert chances[sport] == pytest.approx(next(look.weight for look in LOOKS if look.name == "sport") / weights)
    nonsense = sum(1 << LABELS.index(piece) for piece in ("Sandal", "Sneaker", "Ankle boot"))
    assert chances[nonsense] == 0
    assert independent()[nonsense] > 0


def test_the_control_has_the_same_frequencies_and_set_sizes_but_hardly_a_dependence() -> None:
    assert frequencies(independent()) == pytest.approx(frequencies(together()), abs=1e-6)
    assert (independent() @ COUNT) == pytest.approx(together() @ COUNT, abs=1e-6)
    assert mutual_information(together()) > 3
    assert mutual_information(independent()) < 0.5


def test_a_whole_set_is_the_same_again_and_every_split_differs() -> None:
    whole = garments.whole()
    data, again = (load("outfits", whole, sizes=SMALL) for _ in range(2))
    assert again.digest == data.digest
    assert all(
        np.array_equal(one.images, other.images) and np.array_equal(one.classes, other.classes)
        for one, other in ((data.train, again.train), (data.validation, again.validation), (data.test, again.test))
    )
    assert not np.array_equal(data.validation.images, data.test.images[:40])
    assert data.labels == LABELS
    assert [len(split) for split in (data.train, data.validation, data.test)] == [100, 40, 60]
    assert data.digest not in {
        load("outfits-independent", whole, sizes=SMALL).digest,
        load("outfits", whole, sizes=SMALL | {"test": 61}).digest,
    }
    some = load("outfits", whole, sizes=SMALL, limit=5)  # generates only a part of the same data set
    assert (len(some.train), len(some.validation), len(some.test)) == (5, 5, 60)
    assert some.digest == data.digest
    assert np.array_equal(some.train.images, data.train.images[:5])
    assert len(load("outfits", whole, sizes=SMALL, limit=10**6).train) == 100


def test_each_split_is_composed_from_its_own_garments_alone() -> None:
    white = Split(np.full((100, 28, 28), 255, np.uint8), np.arange(100, dtype=np.uint8) % 10)
    whole = garments.whole()
    data = replace(whole, train=white, validation=white)
    composed, real = (load("outfits", each, sizes=dict.fromkeys(SMALL, 20)) for each in (data, whole))
    assert np.array_equal(composed.test.images, real.test.images)
    assert not np.array_equal(composed.train.images, real.train.images)
    assert np.array_equal(composed.train.classes, real.train.classes)


def canvases(garments: Split, labels: int, count: int) -> npt.NDArray[np.uint8]:
    """Canvases with garments of the first ``labels`` classes. Clutter is black; only garments are brighter than 75."""
    shown = garments.classes < labels
    images = np.concatenate([garments.images[shown], np.zeros((100 * len(garments), 28, 28), np.uint8)])
    classes = np.concatenate([garments.classes[shown], np.full(100 * len(garments), 9, np.uint8)])
    wardrobe = Wardrobe(Split(images, classes))
    return np.stack([compose(np.arange(labels), wardrobe, np.random.default_rng(index)) for index in range(count)])


def test_garments_differ_in_scale_and_brightness_and_reach_every_part_of_the_canvas() -> None:
    white = Split(np.full((10, 28, 28), 255, np.uint8), np.arange(10, dtype=np.uint8))
    drawn = canvases(white, 1, 300)
    assert drawn.shape == (300, 64, 64)
    areas = (drawn > 75).sum(axis=(1, 2))
    assert areas.max() > 4 * areas.min()
    assert (drawn > 75).any(axis=0).mean() > 0.95
    brightest = drawn.max(axis=(1, 2))
    assert 0.4 * 255 - 1 <= brightest.min() < 0.5 * 255
    assert brightest.max() > 0.95 * 255
    assert np.median(brightest) == pytest.approx(0.7 * 255, abs=12)
