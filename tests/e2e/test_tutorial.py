"""Runs the commands of docs/tutorial.md one after another. Only the ports and the number of training threads differ."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.kit.command import COMMAND_SECONDS, ROOT, Serving, environment, invoke, serving

_, *PARTS = re.split(r"^## (.+)$", (ROOT / "docs/tutorial.md").read_text(), flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))


class Shell:
    """A reader's environment: a folder with examples/, environment variables, and the installed programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.variables = environment(PATH=path, HANGTAG_TRAIN_THREADS="1")  # leave CPUs to other tests
        self.addresses: Mapping[str, str] = {}

    def run(self, command: Sequence[str], codes: Sequence[int] = (0,)) -> str:
        """Returns what a command prints on standard output and standard error."""
        texts = [re.sub(r"127\.0\.0\.1:800[01]", lambda address: self.addresses[address[0]], text) for text in command]
        if texts[-1].startswith("hangtag "):
            return self._hangtag(texts[-1], codes)
        done = subprocess.run(
            texts, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _hangtag(self, line: str, codes: Sequence[int]) -> str:
        """Run the command in this process, which has already imported PyTorch."""
        with contextlib.chdir(self.folder):
            words = shlex.split(line)[1:]
            paths = [path for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
            done = invoke(*paths, exit_code=None, variables=self.variables)
        assert done.exit_code in codes, f"{line}\n{done.output}"
        return done.output

    def follow(self, section: str) -> dict[str, str]:
        """Run the commands of a section except those that start servers. Returns the output of each line."""
        printed = {}
        for block in re.findall(r"```sh\n(.*?)```", SECTIONS[section], re.DOTALL):
            for line in block.splitlines():
                if line.startswith("export "):
                    self.variables.update([line.removeprefix("export ").split("=")])
                elif line != "hangtag serve":
                    may_be_late = line.startswith("hangtag loadtest")  # the run is invalid on a busy machine
                    codes = (0, 1) if may_be_late else (0,)
                    printed[line] = self.run(["bash", "-ec", line], codes)
        for code in re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL):
            printed["python"] = self.run([sys.executable, "-W", "error", "-c", code])
        return printed


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("tutorial"))


@pytest.fixture(scope="module")
def printed(shell: Shell) -> dict[str, str]:
    """The output of the tutorial's sections before the section about the server."""
    sections = ("The pictures", "Training", "Publishing", "Accurate and fast")
    return {section: "".join(shell.follow(section).values()) for section in sections}


@pytest.fixture(scope="module")
def server(shell: Shell, printed: dict[str, str]) -> Iterator[Serving]:
    assert "\nhangtag serve\n" in SECTIONS["Serving"]
    with serving("--models", shell.folder / shell.variables["HANGTAG_MODELS"], "--port", 0, script=True) as server:
        address = server.address
        shell.addresses = {"127.0.0.1:8001": address, "127.0.0.1:8000": server.http_address}
        shell.variables["HANGTAG_SERVER"] = address
        yield server


def test_the_pictures_are_counted_and_drawn(shell: Shell, printed: dict[str, str]) -> None:
    assert re.search(r"^all +\d+ ", printed["The pictures"], re.MULTILINE)
    assert (shell.folder / "signs.png").is_file()


def test_the_network_learns_the_pictures(shell: Shell, printed: dict[str, str]) -> None:
    best = re.search(r"best epoch .* test accuracy ([\d.]+)%", printed["Training"])
    assert best
    assert float(best[1]) >= 90
    assert "next: hangtag export runs/cnn-signs-pictures-seed0\n" in printed["Training"]
    assert (shell.folder / "runs/cnn-signs-pictures-seed0/report.html").is_file()


def test_the_run_is_published_in_both_precisions(shell: Shell, printed: dict[str, str]) -> None:
    assert "published my-models/signs/1\n" in printed["Publishing"]
    assert "  parity       logits within " in printed["Publishing"]
    assert "published my-models/signs-int8/1\n" in printed["Publishing"]
    full, small = (shell.folder / f"my-models/{name}/1/model.onnx" for name in ("signs", "signs-int8"))
    assert small.stat().st_size < 0.6 * full.stat().st_size


def test_a_route_over_two_models_is_chosen(shell: Shell, printed: dict[str, str]) -> None:
    assert 'cascade = ["signs-fast", "signs-int8"]' in (shell.folder / "my-models/signs-both/route.toml").read_text()
    assert len(re.findall(r"^signs\S* +1 +yes +(?:fp32|int8)", printed["Accurate and fast"], re.MULTILINE)) == 3


def test_every_way_to_call_the_server_gives_the_same_answer(shell: Shell, server: Serving) -> None:
    printed = shell.follow("Serving")
    words = shlex.split(next(line for line in printed if line.startswith("hangtag classify")))
    called = json.loads(shell.run([*words, "--json"]))["labels"]
    over_http = json.loads(next(text for line, text in printed.items() if line.startswith("curl")))["labels"]
    assert [(label["label"], label["probability"]) for label in over_http] == [
        (label["name"], pytest.approx(label["probability"], abs=1e-6)) for label in called
    ]
    assert called[0]["name"] == "yield"
    assert re.fullmatch(r"yield \d+% by signs-(?:fast|int8)\n", printed["python"])


def test_new_pictures_are_evaluated_and_load_tested(shell: Shell, server: Serving) -> None:
    printed = shell.follow("How good, and how fast")
    accuracies = [float(figure) for text in printed.values() for figure in re.findall(r"accuracy +([\d.]+)%  ", text)]
    assert len(accuracies) == 2
    assert min(accuracies) >= 85
    page = (shell.folder / "reports/signs.html").read_text()
    assert all(name in page for name in ("signs-int8", "signs-both", "accuracy"))
    assert (shell.folder / "reports/signs/mistakes.png").is_file()
