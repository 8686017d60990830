"""Take other people's pictures, networks and files from a folder to a load-tested service, with a user's commands."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx2
import numpy as np
import torch

from hangtag import Client
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.runs.run import Run
from studies import results
from studies.bench.process import Served, hangtag_serve, served
from studies.hangtag_command import hangtag
from studies.own_pictures.network import build
from studies.own_pictures.sets import SETS, PictureSet, figures, many_figures
from studies.page import Part, made_from, percent, table
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
PACKAGES = ("onnxruntime", "torch", "pillow", "numpy")
MANY, THEIRS = "many-figures", "their-file"
"""The set of 200 classes, and the model that is imported from a bare ONNX file of that set's network."""
MEMBERS = (f"{MANY}-int8", THEIRS)
CASCADE = "fast-and-sure"
"""The cascade of MEMBERS."""
ASKED = 20
"""How many pictures of each model are classified in every way."""
_HEAD = ("pictures", "their number", "classes", "network", "held-out accuracy", "in int8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep pictures, runs and models there.  [default: a "
              "temporary folder]")  # fmt: skip
def main(out: Path, folder: Path | None) -> None:
    """Draw picture sets, train, export and import models of them, serve all, ask each in four ways, and load-test them.

    Needs scikit-learn's digits (make others). Figures are of held-out pictures.
    """
    with tempfile.TemporaryDirectory() as temporary:
        walk = Walk((folder or Path(temporary)).resolve())
        lines = [results.conditions("python -m studies own_pictures run", results.versions(PACKAGES))]
        lines += [walk.learn(each) for each in SETS]
        lines += [walk.import_theirs(), walk.one_class()]
        walk.route()
        with served(hangtag_serve(walk.models)) as server:
            lines += walk.ask(server)
            lines.append(walk.load_test(server))
        results.write(out, lines)


class Walk:
    """The folder of a run of this study: pictures/, runs/ and models/."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"

    def pictures(self, name: str) -> Path:
        return self.folder / "pictures" / name

    def learn(self, one: PictureSet) -> Line:
        """Train a set's network, and publish it in FP32 and int8."""
        pictures, run = self.pictures(one.name), self.folder / "runs" / one.name
        one.write(pictures)
        hangtag(["train", one.network, "--data", f"folder:{pictures}", *one.options, "--out", str(run)])
        for precision in ("fp32", "int8"):
            self._publish("export", str(run), "--name", one.name, "--precision", precision)
        return {
            "run": one.name,
            "what": one.what,
            "network": one.network,
            "options": list(one.options),
            "image": Run(run).read_config()["image"],
            "classes": len(Run(run).read_metrics()["summary"]["labels"]),
            "pictures": sum(1 for _ in pictures.rglob("*.png")),
            "accuracy": self._evaluate(one.name, "--data-dir", str(pictures)),
            "int8_accuracy": self._evaluate(f"{one.name}-int8", "--data-dir", str(pictures)),
        }

    def import_theirs(self) -> Line:
        """Write the network of 200 classes as a bare ONNX file, and import the file with its preprocessing."""
        run = Run(self.folder / "runs" / MANY)
        image = ImageSpec.of(run.read_config()["image"])
        labels = run.read_metrics()["summary"]["labels"]
        network = build(len(labels), image)
        network.load_state_dict(run.load("best.pt")["model"])
        file, names = self.folder / "theirs.onnx", self.folder / "theirs.txt"
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 3, image.height, image.width),), file, input_names=["pixel_values"],
            output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
            dynamo=True, verbose=False,
        )  # fmt: skip
        names.write_text("\n".join(labels))
        numbers = {name: ",".join(map(str, getattr(image, name))) for name in ("mean", "std")}
        steps = f"size={image.height}x{image.width} scale=255 mean={numbers['mean']} std={numbers['std']}"
        described = ("import", str(file), "--labels", str(names), "--preprocessing", steps)
        learned, tested = (f"folder:{self.pictures(MANY) / split}" for split in ("train", "test"))
        self._publish(*described, "--data", tested, "--name", THEIRS)
        self._publish(*described, "--data", learned, "--name", f"{THEIRS}-int8", "--precision", "int8")
        return {
            "run": THEIRS,
            "accuracy": self._evaluate(THEIRS, "--samples", tested),
            "int8_accuracy": self._evaluate(f"{THEIRS}-int8", "--samples", tested),
        }

    def one_class(self) -> Line:
        """Try to learn a single class, which is refused."""
        folder = self.pictures("one-class")
        figures(folder, {"circle": 20})
        done = _run("train", "cnn", "--data", f"folder:{folder}", "--out", str(self.folder / "runs/one-class"))
        return {"run": "one-class", "status": done.returncode, "message": done.stderr.strip().splitlines()[-1]}

    def route(self) -> None:
        """Make a cascade of the third-party network in int8 and the file, tuned on pictures that neither has seen."""
        kept = self.pictures("kept")
        many_figures(kept, {"": 3}, seed=1)
        self._publish("route", "tune", *MEMBERS, "--name", CASCADE, "--samples", f"folder:{kept}")

    def ask(self, server: Served) -> Iterator[Line]:
        """Classify pictures of each model by the command, the page's call, gRPC and HTTP, and compare the answers."""
        for one in SETS:
            for name in (one.name, f"{one.name}-int8"):
                yield self._ask(server, name, self.pictures(one.name))
        for name in (THEIRS, f"{THEIRS}-int8", CASCADE):
            yield self._ask(server, name, self.pictures(MANY))

    def _ask(self, server: Served, name: str, pictures: Path) -> Line:
        every = sorted(pictures.rglob("*.png"))
        files = every[:: max(1, len(every) // ASKED)][:ASKED]
        with Client(server.address) as grpc, Client(f"http://{server.http}") as http:
            parameters = http.parameters(name)
            labels, spec = json.loads(parameters["hangtag.labels"]), ImageSpec.parse(parameters["hangtag.image"])
            top = str(len(labels))
            done = _run(
                "classify", *map(str, files), "--model", name, "--json", "--top-k", top, "--server", server.address
            )
            by_command = {
                answer["image"]: _probabilities((label["name"], label["probability"]) for label in answer["labels"])
                for answer in map(json.loads, done.stdout.splitlines())
            }
            alike = 0
            for file in files:
                data, pixels = file.read_bytes(), {"image": spec.read(file)[None]}
                url = f"http://{server.http}/v1/classify/{name}?top_k={top}"
                page = httpx2.post(url, content=data, trust_env=False).json()
                classified = grpc.classify(data, name, top_k=len(labels)).labels
                alike += (
                    by_command.get(str(file))
                    == _probabilities((label["label"], label["probability"]) for label in page["labels"])
                    == _probabilities((label.name, label.probability) for label in classified)
                    == _probabilities(zip(labels, http.infer(name, pixels)["probabilities"][0], strict=True))
                    == _probabilities(zip(labels, grpc.infer(name, pixels)["probabilities"][0], strict=True))
                )
        return {"run": f"asked {name}", "pictures": len(files), "alike": alike}

    def load_test(self, server: Served) -> Line:
        """Load-test both members of the cascade and the cascade, with the accuracy on held-out pictures."""
        file = self.folder / "loadtest.json"
        samples = ("--samples", str(self.pictures(MANY) / "test"), "--accuracy")
        load = ("--concurrency", "1,4", "--min-duration", "2s", f"--json={file}")
        hangtag(["loadtest", *MEMBERS, CASCADE, "--server", server.address, *samples, *load])
        targets = json.loads(file.read_text())["targets"]
        return {"run": "loadtest", "accuracy": {each["name"]: each["accuracy"]["accuracy"] for each in targets}}

    def _publish(self, *arguments: str) -> None:
        hangtag([*arguments, "--models", str(self.models)])

    def _evaluate(self, name: str, option: str, pictures: str) -> float:
        """A model's accuracy on held-out pictures."""
        done = _run("evaluate", str(self.models / name), "--json", option, pictures)
        if done.returncode:
            raise click.ClickException(f"hangtag evaluate ended with status {done.returncode}:\n{done.stderr}")
        return float(json.loads(done.stdout)["accuracy"])


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "hangtag", *arguments], capture_output=True, text=True, check=False)


def _probabilities(labels: Any) -> dict[str, Any]:
    """The probability of each label in FP32. ``labels``: pairs of a name and a probability."""
    return {name: np.float32(probability) for name, probability in labels}


def part(path: Path = RESULTS) -> str:
    """The results for each picture set, and how the models were called."""
    lines = results.read(path)
    conditions, theirs, tested = lines["conditions"], lines[THEIRS], lines["loadtest"]["accuracy"]
    asked = [line for name, line in lines.items() if name.startswith("asked ")]
    alike, pictures = (sum(line[key] for line in asked) for key in ("alike", "pictures"))
    imported = lines[MANY] | theirs | {"network": "the same, exported by PyTorch"}
    rows = [_row(lines[one.name], lines[one.name]["what"]) for one in SETS]
    rows.append(_row(imported, f"{imported['what']}, by an ONNX file without preprocessing and `hangtag import`", ""))
    return f"""Pictures that anybody can have, by the recipe `pictures` and seed 0:

{table(_HEAD, rows, right=2)}

Of each of these models, in FP32 and int8, and of a cascade of `{MEMBERS[0]}` and `{THEIRS}`, \
{asked[0]["pictures"]} pictures were classified by `hangtag classify`, by the page's call, and over gRPC \
and HTTP with pixels that `ImageSpec` prepared: {alike} of {pictures} answers were the same in all ways, \
to the last bit of every probability. The load test's accuracy on the held-out pictures of 200 classes is \
{percent(tested[MEMBERS[0]])}, {percent(tested[THEIRS])}, and {percent(tested[CASCADE])} of the \
cascade. A folder of a single class is refused: “{lines["one-class"]["message"]}”

{made_from(path, conditions)}."""


def _row(line: Line, what: str, size: str = ", {height}x{width}") -> tuple[str, ...]:
    network = f"`{line['network']}{' --balance' if '--balance' in line['options'] else ''}`"
    if ":" in network:
        network = "a residual network of one's own"
    elif " " in line["network"]:
        network = line["network"]
    counts = (f"{line['pictures']:,}", f"{line['classes']}")
    shares = (percent(line["accuracy"]), percent(line["int8_accuracy"]))
    return f"{what}{size.format(**line['image'])}", *counts, network, *shares


PARTS = (Part("studies/own_pictures/README.md", part, "own pictures"),)
