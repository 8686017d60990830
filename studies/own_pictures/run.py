"""Takes pictures, networks and files of others from a folder to a load-tested service, by the commands of a user."""

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
from torch import nn

from hangtag import Client
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.runs.run import Run
from studies import results
from studies.own_pictures.network import build
from studies.own_pictures.sets import SETS, PictureSet, figures, many_figures
from studies.results import Line
from studies.server.comparison import package_versions
from studies.server.process import Served, hangtag_serve, served
from studies.training_runs import hangtag

RESULTS = Path(__file__).with_name("results.jsonl")
PACKAGES = ("onnxruntime", "torch", "pillow", "numpy")
THEIRS = "their-file"
"""The model that is imported from a bare ONNX file."""
MANY = "many-figures"
MEMBERS = (f"{MANY}-int8", THEIRS)
CASCADE = "fast-and-sure"
"""Over MEMBERS."""
ASKED = 20
"""Pictures of each model that are classified in every way."""


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
        lines = [results.conditions("python -m studies own_pictures run", package_versions(PACKAGES))]
        lines += [walk.learn(each) for each in SETS]
        lines += [walk.import_theirs(), walk.one_class()]
        walk.route()
        with served(hangtag_serve(walk.models)) as server:
            lines += walk.ask(server)
            lines.append(walk.load_test(server))
        results.write(out, lines)


class Walk:
    """The folder of a run of this study: pictures/, runs/, models/ and reports/."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"

    def pictures(self, name: str) -> Path:
        return self.folder / "pictures" / name

    def learn(self, one: PictureSet) -> Line:
        """Train a set's network, and publish it in FP32 and int8."""
        one.write(self.pictures(one.name))
        run = self.folder / "runs" / one.name
        hangtag(["train", one.network, "--data", f"folder:{self.pictures(one.name)}", *one.options, "--out", str(run)])
        accuracy = {}
        for precision, name in (("fp32", one.name), ("int8", f"{one.name}-int8")):
            self._publish(["export", str(run), "--name", one.name, "--precision", precision, "--timing", "none"])
            accuracy[precision] = self._evaluate(name, "--data-dir", self.pictures(one.name))
        metrics = Run(run).read_metrics()
        config = Run(run).read_config()
        return {
            "run": one.name,
            "what": one.what,
            "network": one.network,
            "options": list(one.options),
            "image": config["image"],
            "classes": len(metrics["summary"]["labels"]),
            "pictures": sum(1 for _ in self.pictures(one.name).rglob("*.png")),
            "accuracy": accuracy["fp32"],
            "int8_accuracy": accuracy["int8"],
        }

    def import_theirs(self) -> Line:
        """Write the network of 200 classes as a stranger's file, bare, and import it with its preprocessing."""
        run = Run(self.folder / "runs" / MANY)
        image = ImageSpec.of(run.read_config()["image"])
        labels = run.read_metrics()["summary"]["labels"]
        network = self._network(run, len(labels), image)
        file, names = self.folder / "theirs.onnx", self.folder / "theirs.txt"
        example = torch.zeros(2, 3, image.height, image.width)
        torch.onnx.export(
            network, (example,), file, input_names=["pixel_values"], output_names=["logits"], external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
        )  # fmt: skip
        names.write_text("\n".join(labels))
        numbers = {name: ",".join(map(str, getattr(image, name))) for name in ("mean", "std")}
        steps = f"size={image.height}x{image.width} scale=255 mean={numbers['mean']} std={numbers['std']}"
        pictures = f"folder:{self.pictures(MANY) / 'test'}"
        common = [str(file), "--labels", str(names), "--preprocessing", steps, "--data", pictures]
        self._publish(["import", *common, "--name", THEIRS])
        learned = f"folder:{self.pictures(MANY) / 'train'}"
        calibrated = [*common[:-1], learned]
        self._publish(["import", *calibrated, "--name", f"{THEIRS}-int8", "--precision", "int8"])
        return {
            "run": THEIRS,
            "accuracy": self._evaluate(THEIRS, "--samples", pictures),
            "int8_accuracy": self._evaluate(f"{THEIRS}-int8", "--samples", pictures),
        }

    @staticmethod
    def _network(run: Run, labels: int, image: ImageSpec) -> nn.Module:
        network = build(labels, image)
        network.load_state_dict(run.load("best.pt")["model"])
        return network.eval()

    def one_class(self) -> Line:
        """Try to learn a single class, which is refused."""
        folder = self.pictures("one-class")
        figures(folder, {"circle": 20})
        arguments = ["train", "cnn", "--data", f"folder:{folder}", "--out", str(self.folder / "runs/one-class")]
        done = self._hangtag(arguments)
        return {"run": "one-class", "status": done.returncode, "message": done.stderr.strip().splitlines()[-1]}

    def route(self) -> None:
        """Make a cascade of the third-party network, in int8, and the file, by pictures that neither saw."""
        kept = self.pictures("kept")
        many_figures(kept, {"": 3}, seed=1)
        self._publish(["route", "tune", *MEMBERS, "--name", CASCADE, "--samples", f"folder:{kept}"])

    def ask(self, server: Served) -> Iterator[Line]:
        """Classify pictures of each model by the command, the page's call, gRPC and HTTP, and compare the answers."""
        for one in SETS:
            for name in (one.name, f"{one.name}-int8"):
                yield self._ask(server, name, self.pictures(one.name))
        for name in (THEIRS, f"{THEIRS}-int8", CASCADE):
            yield self._ask(server, name, self.pictures(MANY))

    def _ask(self, server: Served, name: str, pictures: Path) -> Line:
        all_files = sorted(pictures.rglob("*.png"))
        files = all_files[:: max(1, len(all_files) // ASKED)][:ASKED]
        with Client(server.address) as grpc, Client(f"http://{server.http}") as http:
            labels, spec = self._contract(http, name)
            command = self._command(server, name, files, len(labels))
            alike = 0
            for file in files:
                data = file.read_bytes()
                page = httpx2.post(
                    f"http://{server.http}/v1/classify/{name}?top_k={len(labels)}", content=data, trust_env=False
                ).json()
                by_page = {label["label"]: np.float32(label["probability"]) for label in page["labels"]}
                by_grpc = {
                    label.name: np.float32(label.probability)
                    for label in grpc.classify(data, name, top_k=len(labels)).labels
                }
                pixels = {"image": spec.read(file)[None]}
                (probabilities,) = http.infer(name, pixels)["probabilities"]
                (over_grpc,) = grpc.infer(name, pixels)["probabilities"]
                by_http = dict(zip(labels, probabilities, strict=True))
                alike += (
                    by_page == by_grpc == by_http == dict(zip(labels, over_grpc, strict=True)) == command[str(file)]
                )
        return {"run": f"asked {name}", "pictures": len(files), "alike": alike}

    def _command(self, server: Served, name: str, files: list[Path], top_k: int) -> dict[str, dict[str, Any]]:
        """The probability of each label, by file, as ``hangtag classify`` answers."""
        arguments = ["classify", *map(str, files), "--model", name, "--json", "--top-k", str(top_k)]
        done = self._hangtag([*arguments, "--server", server.address], check=True)
        answers = map(json.loads, done.stdout.splitlines())
        return {
            answer["image"]: {label["name"]: np.float32(label["probability"]) for label in answer["labels"]}
            for answer in answers
        }

    @staticmethod
    def _contract(http: Client, name: str) -> tuple[list[str], ImageSpec]:
        """A served model's labels, and how pictures become its input."""
        parameters = http.parameters(name)
        return json.loads(parameters["hangtag.labels"]), ImageSpec.parse(parameters["hangtag.image"])

    def load_test(self, server: Served) -> Line:
        """Load-test both members of the cascade and the cascade, with the accuracy on held-out pictures."""
        file = self.folder / "loadtest.json"
        arguments = ["loadtest", *MEMBERS, CASCADE, "--server", server.address, "--accuracy", "--json", str(file)]
        arguments += ["--samples", str(self.pictures(MANY) / "test"), "--concurrency", "1,4"]
        hangtag([*arguments, "--min-duration", "2s"])
        targets = json.loads(file.read_text())["targets"]
        return {"run": "loadtest", "accuracy": {each["name"]: each["accuracy"]["accuracy"] for each in targets}}

    def _publish(self, arguments: list[str]) -> None:
        hangtag([*arguments, "--models", str(self.models)])

    def _evaluate(self, name: str, option: str, pictures: Path | str) -> float:
        """A model's accuracy on held-out pictures."""
        done = self._hangtag(["evaluate", str(self.models / name), "--json", "-", option, str(pictures)], check=True)
        return float(json.loads(done.stdout)["accuracy"])

    @staticmethod
    def _hangtag(arguments: list[str], *, check: bool = False) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "hangtag", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise click.ClickException(f"hangtag {arguments[0]} ended with status {done.returncode}:\n{done.stderr}")
        return done
