import numpy as np
import pytest

from hangtag.training.metrics.multi_label import choose_thresholds, decide, decide_top, evaluate

TRUTH = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]], np.bool_)
PREDICTED = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1]], np.bool_)
SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.7], [0.1, 0.6, 0.0], [0.7, 0.2, 0.6]], np.float32)


def test_figures_are_those_counted_by_hand() -> None:
    """Hits, predicted, true: label 0: 3, 3, 3; label 1: 1, 1, 2; label 2: 1, 2, 1."""
    outcome = evaluate(PREDICTED, SCORES, TRUTH)
    assert outcome.c_precision == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert outcome.c_recall == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert outcome.o_precision == pytest.approx(5 / 6)
    assert outcome.o_recall == pytest.approx(5 / 6)
    assert outcome.o_f1 == pytest.approx(5 / 6)
    assert outcome.exact_match == pytest.approx(2 / 4)  # the third image and the fourth
    assert outcome.labels_per_image == pytest.approx(6 / 4)


def test_c_f1_is_the_harmonic_mean_of_c_p_and_c_r_and_not_the_mean_of_the_labels_f1() -> None:
    predicted = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], np.bool_)
    truth = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], np.bool_)
    outcome = evaluate(predicted, predicted.astype(np.float32), truth)
    assert (outcome.c_precision, outcome.c_recall) == pytest.approx(((1 / 4 + 1) / 2, (1 + 1 / 4) / 2))
    assert outcome.c_f1 == pytest.approx(0.625)
    assert outcome.c_f1 != pytest.approx((0.4 + 0.4) / 2)


def test_mean_ap_ranks_the_images_by_each_labels_scores() -> None:
    """Ranks of the true images: label 0: 1, 2, 3; label 1: 1 and 4; label 2: 2."""
    assert evaluate(PREDICTED, SCORES, TRUTH).mean_ap == pytest.approx((1 + (1 / 1 + 2 / 4) / 2 + 1 / 2) / 3)


def test_a_label_that_no_image_has_is_left_out_of_mean_ap() -> None:
    truth, scores = (np.c_[TRUTH, np.zeros(4, np.bool_)], np.c_[SCORES, np.ones(4, np.float32)])
    outcome = evaluate(np.c_[PREDICTED, np.zeros(4, np.bool_)], scores, truth)
    assert outcome.mean_ap == pytest.approx(evaluate(PREDICTED, SCORES, TRUTH).mean_ap)


def test_without_a_correct_label_the_metrics_are_zero() -> None:
    outcome = evaluate(~TRUTH, SCORES, TRUTH)
    assert (outcome.c_f1, outcome.o_f1, outcome.exact_match) == (0, 0, 0)


def test_deciding_takes_labels_that_reach_the_threshold_or_the_highest() -> None:
    scores = np.array([[0.5, 0.4, 0.6], [0.1, 0.3, 0.2]], np.float32)
    assert decide(scores, 0.5).tolist() == [[True, False, True], [False, True, False]]


def test_each_threshold_is_the_best_of_all_for_its_figure() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 4)) < 0.4
    scores = (truth * 0.3 + rng.random((300, 4)) * 0.7).astype(np.float32)
    chosen = choose_thresholds(scores, truth, candidates=1_200)

    def figures(threshold: float) -> tuple[float, float]:
        outcome = evaluate(decide(scores, threshold), scores, truth)
        return outcome.o_f1, outcome.exact_match

    every = [figures(float(threshold)) for threshold in np.unique(scores)[::10]]
    assert figures(chosen.o_f1)[0] >= max(o_f1 for o_f1, _ in every)
    assert figures(chosen.exact_match)[1] >= max(exact_match for _, exact_match in every)
    assert figures(chosen.o_f1)[0] > figures(0.9)[0] + 0.05


def test_deciding_by_rank_takes_the_same_number_of_labels_for_every_image() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.2], [0.3, 0.3, 0.3, 0.3]], np.float32)
    assert decide_top(scores, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
