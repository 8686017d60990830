import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hangtag.training.data import outfits
from hangtag.training.data.fashion_mnist import LABELS, FashionMnist, Split
from hangtag.training.data.multi_label import CANVAS_SIZE, MAX_LABELS, MultiLabelData
from hangtag.training.data.outfits import LOOKS, independent, load, make_split, together
from hangtag.training.data.outfits_canvas import Wardrobe, compose
from studies.label_sets.outfits_picture import PICTURE, draw

pytestmark = pytest.mark.slow

Probabilities = npt.NDArray[np.float64]
SETS = np.arange(1 << len(LABELS))
MEMBERS = np.array([[bool(label_set >> label & 1) for label in range(len(LABELS))] for label_set in SETS])
COUNT = MEMBERS.sum(axis=1)
SMALL = {"train": 300, "validation": 40, "test": 60}


def frequencies(probabilities: Probabilities) -> Probabilities:
    shares: Probabilities = probabilities @ MEMBERS
    return shares


def mutual_information(probabilities: Probabilities) -> float:
    """Of the labels with each other, in bits: how far the sets are from labels drawn one by one."""

    def entropy(p: Probabilities) -> float:
        return float(-(p[p > 0] * np.log2(p[p > 0])).sum())

    alone = frequencies(probabilities)
    return entropy(alone) + entropy(1 - alone) - entropy(probabilities)


@pytest.fixture(scope="module")
def small_sets(whole: FashionMnist) -> dict[str, MultiLabelData]:
    return {name: load(name, whole, sizes=SMALL) for name in outfits.NAMES}


@pytest.mark.parametrize("probabilities", [together, independent])
def test_every_set_has_one_to_five_labels(probabilities: Callable[[], Probabilities]) -> None:
    chances = probabilities()
    assert chances.sum() == pytest.approx(1)
    assert set(COUNT[chances > 0]) == {1, 2, 3, 4, 5}
    assert MAX_LABELS == 5


def test_looks_have_the_frequencies_of_the_table_and_no_other_set_occurs() -> None:
    chances = together()
    weights = sum(look.weight for look in LOOKS)
    sport = sum(1 << LABELS.index(piece) for piece in ("T-shirt/top", "Sneaker", "Trouser"))
    assert chances[sport] == pytest.approx(next(look.weight for look in LOOKS if look.name == "sport") / weights)
    nonsense = sum(1 << LABELS.index(piece) for piece in ("Sandal", "Sneaker", "Ankle boot"))
    assert chances[nonsense] == 0
    assert independent()[nonsense] > 0


def test_all_names_in_the_table_are_labels_and_no_look_names_one_in_two_slots() -> None:
    for look in LOOKS:
        pieces = [piece for slot in look.slots for piece in slot.split(",") if piece != "-"]
        assert set(pieces) <= set(LABELS)
        assert len(pieces) == len(set(pieces)), look.name


def test_the_control_has_the_same_frequencies_and_set_sizes_but_hardly_a_dependence() -> None:
    assert frequencies(independent()) == pytest.approx(frequencies(together()), abs=1e-6)
    assert (independent() @ COUNT) == pytest.approx(together() @ COUNT, abs=1e-6)
    assert mutual_information(together()) > 3
    assert mutual_information(independent()) < 0.5


def test_in_the_capsule_wardrobe_two_pieces_determine_the_third_and_one_says_little() -> None:
    chances = together()

    def given(*worn: str) -> Probabilities:
        having = MEMBERS[:, [LABELS.index(piece) for piece in worn]].all(axis=1)
        return frequencies(chances * having / (chances * having).sum())

    third = [LABELS.index(piece) for piece in ("Trouser", "Dress", "Coat")]
    for top in ("T-shirt/top", "Shirt", "Pullover"):
        assert given(top)[third].max() < 0.65
        for shoes in ("Sandal", "Sneaker", "Ankle boot"):
            assert given(top, shoes)[third].max() > 0.6


def test_samples_do_not_depend_on_how_many_are_composed(whole: FashionMnist) -> None:
    few, many = (make_split(together(), whole.test, (0, 2), count) for count in (5, 12))
    assert np.array_equal(few.images, many.images[:5])
    assert np.array_equal(few.labels, many.labels[:5])
    other = make_split(together(), whole.test, (1, 2), 12)
    assert not np.array_equal(other.labels, many.labels)


def test_a_whole_set_is_the_same_again_and_every_split_differs(
    small_sets: dict[str, MultiLabelData], whole: FashionMnist
) -> None:
    data = small_sets["outfits"]
    again = load("outfits", whole, sizes=SMALL)
    assert again.digest == data.digest
    assert all(
        np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
        for one, other in ((data.train, again.train), (data.validation, again.validation), (data.test, again.test))
    )
    assert not np.array_equal(data.validation.images, data.test.images[:40])
    assert data.labels == LABELS
    assert [len(split) for split in (data.train, data.validation, data.test)] == [300, 40, 60]
    assert data.digest != small_sets["outfits-independent"].digest
    assert data.digest != load("outfits", whole, seed=1, sizes=SMALL).digest
    assert data.digest != load("outfits", whole, sizes=SMALL | {"test": 61}).digest


def test_with_a_limit_no_more_is_composed_and_it_is_the_same_data_set(
    whole: FashionMnist, small_sets: dict[str, MultiLabelData]
) -> None:
    some = load("outfits", whole, sizes=SMALL, limit=5)
    assert (len(some.train), len(some.validation), len(some.test)) == (5, 5, SMALL["test"])
    assert some.digest == small_sets["outfits"].digest
    np.testing.assert_array_equal(some.train.images, small_sets["outfits"].train.images[:5])
    assert len(load("outfits", whole, sizes=SMALL, limit=10**6).train) == SMALL["train"]


def test_labels_have_the_frequencies_of_their_probabilities(whole: FashionMnist) -> None:
    drawn = make_split(together(), whole.test, (0, 2), 2_000).labels
    assert drawn.mean(axis=0) == pytest.approx(frequencies(together()), abs=0.04)
    assert len(np.unique(drawn, axis=0)) <= (together() > 0).sum()


def test_each_split_is_composed_from_its_own_garments_alone(whole: FashionMnist) -> None:
    white = Split(np.full((100, 28, 28), 255, np.uint8), np.arange(100, dtype=np.uint8) % 10)
    data = replace(whole, train=white, validation=white)
    composed, real = (load("outfits", garments, sizes=dict.fromkeys(SMALL, 20)) for garments in (data, whole))
    assert np.array_equal(composed.test.images, real.test.images)
    assert not np.array_equal(composed.train.images, real.train.images)
    assert np.array_equal(composed.train.labels, real.train.labels)


def test_a_canvas_shows_garments_of_its_labels_and_every_other_brightness_is_noise_or_clutter(
    whole: FashionMnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hangtag.training.data.outfits_canvas.SCRAPS", 0)
    wardrobe = Wardrobe(whole.test)
    shown = {
        count: np.mean(
            [(compose(np.arange(count), wardrobe, np.random.default_rng((count, i))) > 75).mean() for i in range(40)]
        )
        for count in (0, 1, 5)
    }
    assert shown[0] == 0
    assert 0.005 < shown[1] < 0.15
    assert shown[5] > 2.5 * shown[1]


def test_garments_differ_in_scale_and_reach_every_part_of_the_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangtag.training.data.outfits_canvas.SCRAPS", 0)
    monkeypatch.setattr("hangtag.training.data.outfits_canvas.CONTRAST", (1.0, 1.0))
    wardrobe = Wardrobe(Split(np.full((10, 28, 28), 255, np.uint8), np.arange(10, dtype=np.uint8)))
    canvases = [compose(np.array([0]), wardrobe, np.random.default_rng(i)) == 255 for i in range(300)]
    areas = np.array([canvas.sum() for canvas in canvases])
    assert areas.max() > 4 * areas.min()
    assert np.any(canvases, axis=0).mean() > 0.95
    assert canvases[0].shape == (CANVAS_SIZE, CANVAS_SIZE)


def test_composing_takes_well_under_a_millisecond_a_canvas(whole: FashionMnist) -> None:
    seconds = []
    for _ in range(3):  # the quickest says what it takes: another program on the same core makes a run slower
        started = time.process_time()
        make_split(together(), whole.test, (0, 2), 500)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.5


def test_the_picture_shows_canvases_of_both_sets_with_their_labels(
    small_sets: dict[str, MultiLabelData], tmp_path: Path
) -> None:
    drawn = draw(list(small_sets.values()))
    panels = [axes for part in drawn.subfigs for axes in part.axes]
    assert len(panels) == 24
    shown = [np.asarray(image.get_array()) for axes in panels for image in axes.get_images()]
    assert np.array_equal(shown[0], small_sets["outfits"].test.images[0])
    assert np.array_equal(shown[12], small_sets["outfits-independent"].test.images[0])
    for axes, labels in zip(panels[:12], small_sets["outfits"].test.labels, strict=False):
        named = {name for name in axes.get_title().replace("\n", ", ").split(", ") if name}
        assert len(named) == labels.sum()
    PICTURE.write(tmp_path)
    assert 20_000 < (tmp_path / "outfits.png").stat().st_size < 200_000


def test_an_unknown_name_is_an_error(whole: FashionMnist) -> None:
    with pytest.raises(KeyError, match="uniforms"):
        load("uniforms", whole)
