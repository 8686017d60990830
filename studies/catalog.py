"""The table of all experiments: what each answers, what it costs, which pages it makes, and its commands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from studies.page import Part
from studies.pictures import Picture


@dataclass(frozen=True)
class Experiment:
    """One folder of studies/.

    Args:
        question: What it answers.
        cost: The time and hardware that its `run` needs.
        pages: The pages that show its results.
        commands: Its click commands besides `report`, each as module:attribute; they are imported when they are used.
        report: The module whose PARTS and PICTURES `report` writes; None where no page is made.
    """

    question: str
    cost: str
    pages: tuple[str, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None

    def parts(self) -> tuple[Part, ...]:
        """The pages and marked parts that its report makes."""
        return tuple(import_module(self.report).PARTS) if self.report else ()

    def pictures(self) -> tuple[Picture, ...]:
        """The pictures that its report draws."""
        return tuple(getattr(import_module(self.report), "PICTURES", ())) if self.report else ()


EXPERIMENTS: Mapping[str, Experiment] = {
    "accuracy": Experiment(
        "How accurate is each network with the study's recipe, and with the best recipe?",
        "about seventeen hours on two cores",
        ("docs/study.md",),
        {"run": "studies.accuracy.run:main"},
        "studies.accuracy.report",
    ),
    "label_sets": Experiment(
        "Does CNN-RNN predict sets of labels better than networks that score each label alone?",
        "about four hours on two cores",
        ("docs/cnn-rnn.md",),
        {"run": "studies.label_sets.run:main"},
        "studies.label_sets.report",
    ),
    "mistakes": Experiment(
        "Do losses that know which labels are alike make mistakes milder?",
        "about an hour on two cores",
        ("docs/mistakes.md",),
        {"run": "studies.mistakes.run:main"},
        "studies.mistakes.report",
    ),
    "shipped": Experiment(
        "How accurate and how fast are the models in models/?",
        "five minutes on an idle machine; Chromium for the pictures of the page and of the load test's report",
        ("docs/models.md", "README.md"),
        {"run": "studies.shipped.run:main", "page-picture": "studies.shipped.page_picture:main"},
        "studies.shipped.report",
    ),
    "calibration": Experiment(
        "Do the shipped models' probabilities match how often they are right, and what does a temperature change?",
        "two minutes; nothing is timed",
        ("docs/models.md",),
        {"run": "studies.calibration.run:main"},
        "studies.calibration.report",
    ),
    "cascades": Experiment(
        "What does a cascade of the shipped models keep of the accuracy, what does it send on, and what does it cost?",
        "two minutes; for the times one minute on an idle machine",
        ("docs/routes.md",),
        {"run": "studies.cascades.run:main", "times": "studies.cascades.run:times"},
        "studies.cascades.report",
    ),
    "train_step": Experiment(
        "How long does a training step take, compared with Keras and with plain PyTorch?",
        "ten minutes on an idle machine, `batch` 25; `run` needs an environment with Keras (make .venv-keras/.keras)",
        ("docs/study.md", "docs/training.md"),
        {
            "run": "studies.train_step.run:main",
            "profile": "studies.train_step.profile:main",
            "batch": "studies.train_step.batch:main",
        },
        "studies.train_step.report",
    ),
    "exported": Experiment(
        "How fast is each exported file, compared with PyTorch and with its FP32 original?",
        "fifteen minutes on an idle machine; perf and objdump (Debian: linux-perf, binutils), for `instructions` alone",
        ("docs/export.md",),
        {
            "run": "studies.exported.run:main",
            "profile": "studies.exported.profile:main",
            "instructions": "studies.exported.instructions:main",
        },
        "studies.exported.report",
    ),
    "third_party": Experiment(
        "What are models that nobody here made like in int8 and fp16?",
        "five minutes on an idle machine; magika and RapidOCR (make others)",
        ("docs/export.md",),
        {"run": "studies.third_party.run:main"},
        "studies.third_party.report",
    ),
    "own_pictures": Experiment(
        "What becomes of pictures, networks and ONNX files of others, from a folder to a load-tested service?",
        "ten minutes; nothing but accuracy is measured; scikit-learn's digits (make others)",
        ("docs/training.md",),
        {"run": "studies.own_pictures.run:main"},
        "studies.own_pictures.report",
    ),
    "server": Experiment(
        "How fast is the server, compared with Triton, with an earlier version and with bare ONNX Runtime?",
        "forty minutes on an idle machine; h2load, git, and Triton (make triton)",
        ("docs/performance.md", "docs/deploy.md"),
        {"run": "studies.server.run:main", "profile": "studies.server.profile:main"},
        "studies.server.report",
    ),
    "http": Experiment(
        "How fast is the server over HTTP, compared with FastAPI and with Triton's HTTP endpoint?",
        "ten minutes on an idle machine; FastAPI (make fastapi) and Triton (make triton)",
        ("docs/performance.md",),
        {"run": "studies.http.run:main"},
        "studies.http.report",
    ),
    "routes": Experiment(
        "What does a cascade gain over its members, and what do a split and a shadow cost?",
        "eight minutes on an idle machine; h2load",
        ("docs/routes.md",),
        {"run": "studies.routes.run:main"},
        "studies.routes.report",
    ),
    "hosts": Experiment(
        "What do callers notice when one of three hosts is stopped, killed, cut off, slow, lossy or overloaded?",
        "three minutes; root, iproute2 and HAProxy",
        ("docs/operations.md",),
        {"run": "studies.hosts.run:main"},
        "studies.hosts.report",
    ),
    "workers": Experiment(
        "What do several server processes gain, and what memory do they take?",
        "five minutes on an idle machine; h2load",
        ("docs/performance.md",),
        {"run": "studies.workers.run:main", "sharing": "studies.workers.sharing:main"},
        "studies.workers.report",
    ),
    "soak": Experiment(
        "Does the server keep its promises for an hour, while models change and workers are killed?",
        "an hour on an idle machine; trustme",
        ("docs/soak.md",),
        {"run": "studies.soak.run:main", "remark": "studies.soak.run:remark"},
        "studies.soak.report",
    ),
    "loadtest": Experiment(
        "Does the load test agree with other load generators, and how many calls can it make?",
        "five minutes on an idle machine; perf_analyzer (make peers) and h2load",
        ("docs/loadtest.md",),
        {
            "run": "studies.loadtest.run:main",
            "agreement": "studies.loadtest.agreement:main",
            "generators": "studies.loadtest.generators:main",
        },
        "studies.loadtest.report",
    ),
    "gpu": Experiment(
        "Does this machine's GPU answer as the CPU does, are CUDA graphs captured, and what is faster?",
        "a few minutes; an NVIDIA GPU",
        (),
        {"run": "studies.gpu.run:main"},
    ),
    "reference": Experiment(
        "Which options, environment variables and metrics are there?",
        "nothing: it reads declarations",
        ("docs/operations.md",),
        {},
        "studies.reference.report",
    ),
}


def parts() -> Iterator[Part]:
    """Every page and marked part, each once."""
    yield from dict.fromkeys(part for experiment in EXPERIMENTS.values() for part in experiment.parts())


def pictures() -> Iterator[Picture]:
    """Every picture, each once."""
    yield from dict.fromkeys(picture for experiment in EXPERIMENTS.values() for picture in experiment.pictures())
