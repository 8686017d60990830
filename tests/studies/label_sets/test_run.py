"""The line of a multi-label run: the measures by each rule that the page shows."""

from studies.label_sets.run import MEASURES, line
from studies.training_runs import TrainingRun
from tests.studies.fake_run import FakeRun


def test_a_line_has_the_rules_of_its_model_and_the_measures_of_each() -> None:
    figures = dict.fromkeys(MEASURES, 0.5) | {"labels_per_image": 3.0}
    test = figures | {"by_threshold": {"o_f1": figures, "exact_match": figures, "one_half": figures}}
    config = {
        "model": "cnn_rnn", "dataset": "outfits", "seed": 1, "recipe": {"epochs": 5},
        "environment": {"created": "2026-01-02T03:04:05", "git_revision": "a" * 40},
    }  # fmt: skip
    path = line(TrainingRun("a", ()), FakeRun(config, {"summary": {"test": test}}))
    assert list(path["rules"]) == ["likeliest path", "threshold, for O-F1"]
    assert all(tuple(measures) == MEASURES for measures in path["rules"].values())
    test["by_rank"] = {"top_3": figures}
    sigmoids = line(TrainingRun("a", ()), FakeRun(config | {"model": "sigmoids"}, {"summary": {"test": test}}))
    assert list(sigmoids["rules"]) == [
        "threshold, for O-F1", "threshold, for exact match", "threshold 0.5", "top 3"
    ]  # fmt: skip
    assert (sigmoids["trained"], sigmoids["git_revision"]) == ("2026-01-02", "a" * 12)
