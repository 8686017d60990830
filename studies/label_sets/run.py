"""Trains CNN-RNN and its baselines on two data sets with three seeds, and records the figures of each run."""

from pathlib import Path

from hangtag.training.runs.run import Run
from studies import results, training_runs
from studies.training_runs import TrainingRun

RESULTS = Path(__file__).with_name("results.jsonl")
DATASETS = ("outfits", "outfits-independent")
BASELINES = ("cnn_embedding", "sigmoids", "softmax_ranking")
MODELS = ("cnn_rnn", *BASELINES)
SEEDS = (0, 1, 2)
MEASURES = ("c_precision", "c_recall", "c_f1", "o_precision", "o_recall", "o_f1", "mean_ap", "exact_match")
PATH = "likeliest path"
TOP = 3
"""The paper's convention for the baselines: this many labels for every image, whatever their scores."""


def _training(model: str, dataset: str, seed: int) -> TrainingRun:
    arguments = (model, "--data", dataset, "--seed", str(seed), "--precision", "bf16")
    return TrainingRun(f"{model}-{dataset}-seed{seed}", arguments)


TRAINING_RUNS = tuple(_training(model, dataset, seed) for seed in SEEDS for dataset in DATASETS for model in MODELS)


def line(_run: TrainingRun, trained: Run) -> results.Line:
    """A finished run's line: the measures on the test split, by each rule that turns scores into a set of labels."""
    config, test = trained.read_config(), trained.read_metrics()["summary"]["test"]
    model, by_threshold = config["model"], test["by_threshold"]
    rules = {PATH: test} if model == "cnn_rnn" else {}
    rules["threshold, for O-F1"] = by_threshold["o_f1"]
    if model != "cnn_rnn":
        rules["threshold, for exact match"] = by_threshold["exact_match"]
    if model == "sigmoids":
        rules["threshold 0.5"] = by_threshold["one_half"]
    if top := test.get("by_rank", {}).get(f"top_{TOP}"):
        rules[f"top {TOP}"] = top
    return {
        "model": model,
        "dataset": config["dataset"],
        "seed": config["seed"],
        "epochs": config["recipe"]["epochs"],
        "trained": config["environment"]["created"][:10],
        "git_revision": (config["environment"]["git_revision"] or "")[:12],
        "rules": {rule: {measure: figures[measure] for measure in MEASURES} for rule, figures in rules.items()},
    }


main = training_runs.command(
    TRAINING_RUNS,
    line,
    RESULTS,
    "Train CNN-RNN and three baselines with three seeds on two data sets.\n\nA finished run costs nothing, and a "
    "stopped one continues. TRAIN_OPTIONS are options of hangtag train, such as -- --threads 2.",
)
