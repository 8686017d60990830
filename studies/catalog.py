"""The table of all experiments, with their questions, the cost of a run, and their modules."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from studies.page import Part
from studies.pictures import Picture


@dataclass(frozen=True)
class Experiment:
    """An experiment, whose modules are imported on first use.

    Args:
        question: The question that the experiment answers.
        cost: The time, the hardware and the programs that a run needs.
        run: The module with the command `main`; empty if the experiment has no command.
        report: The module with the PARTS and PICTURES of the pages; empty if the experiment has no page.
    """

    question: str
    cost: str
    run: str = ""
    report: str = ""

    def command(self) -> click.Command:
        """Return the command that runs the experiment."""
        command: click.Command = import_module(self.run).main
        return command


EXPERIMENTS: Mapping[str, Experiment] = {
    "shipped": Experiment(
        "How accurate and how fast are the models in models/?",
        "five minutes on an idle machine; it needs Chromium for screenshots of the server's page and of the report",
        "studies.shipped.run",
        "studies.shipped.report",
    ),
    "exported": Experiment(
        "How fast is each exported file, compared with PyTorch and with its FP32 original?",
        "fifteen minutes on an idle machine",
        *["studies.exported.run"] * 2,
    ),
    "server": Experiment(
        "How fast is the server, compared with Triton, with a minimal server and with bare ONNX Runtime?",
        "half an hour on an idle machine; it needs h2load and Triton (make triton)",
        *["studies.bench.server"] * 2,
    ),
    "http": Experiment(
        "How fast is the server over HTTP, compared with FastAPI and with Triton's HTTP endpoint?",
        "ten minutes on an idle machine; it needs h2load, FastAPI (make fastapi) and Triton (make triton)",
        *["studies.bench.http"] * 2,
    ),
    "routes": Experiment(
        "What does a cascade gain over its members, and what do a split and a shadow cost?",
        "eight minutes on an idle machine; it needs h2load",
        *["studies.bench.routes"] * 2,
    ),
    "soak": Experiment(
        "Does the server keep its promises for an hour, while models change and workers are killed?",
        "an hour on an idle machine; it needs trustme",
        "studies.soak.run",
        "studies.soak.report",
    ),
    "residency": Experiment(
        "What does it cost to serve a thousand models if memory cannot hold all? (studies/residency/README.md)",
        "three minutes on an idle machine",
        "studies.residency.run",
    ),
    "digits": Experiment(
        "Does a network learn scikit-learn's digits from a folder of PNG files? (studies/finished/own_pictures.md)",
        "a minute; it needs scikit-learn in .venv-others (make others)",
        "studies.digits",
    ),
    "gpu": Experiment(
        "Does the GPU give the same answers as the CPU, can CUDA graphs be captured, and which way is fastest?",
        "a few minutes; it needs an NVIDIA GPU",
        "studies.gpu",
    ),
    "reference": Experiment(
        "Which options, environment variables and metrics are there?",
        "no time, because nothing is measured: the report only reads declarations",
        report="studies.reference",
    ),
}


def parts() -> list[Part]:
    """Return every page, and every marked part of a page, that the reports write."""
    return [part for report in _reports() for part in report.PARTS]


def pictures() -> list[Picture]:
    """Return every picture that the reports draw."""
    return [picture for report in _reports() for picture in getattr(report, "PICTURES", ())]


def _reports() -> list[Any]:
    return [import_module(experiment.report) for experiment in EXPERIMENTS.values() if experiment.report]
