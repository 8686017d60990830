"""Examples in the documents run unchanged, links lead to existing pages, and named folders exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hangtag.training.data.dataset import Split
from tests.kit.command import invoke
from tests.kit.server import server
from tests.kit.shipped import MODELS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PEERS = ROOT / ".venv-peers" / "bin"
WITH_OUR_PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("studies/**/*.md"))]
OURS = [sys.executable, "-W", "error"]
DEFAULT_ADDRESS = "127.0.0.1:8001"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with server(MODELS, provider="cpu") as running:
        yield running.address


@pytest.fixture(scope="module")
def outfits() -> Iterator[str]:
    with server(ROOT / "examples/outfits/models", provider="cpu") as running:
        yield running.address


def example(language: str, containing: str, document: str = README) -> str:
    """Return the only code block in this language that contains this text, from the README or another document."""
    blocks = [block for block in re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL) if containing in block]
    assert len(blocks) == 1, f"the document has {len(blocks)} {language} examples with {containing!r}"
    return str(blocks[0])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_folders_of_tests_that_exist(document: Path) -> None:
    named = re.findall(r"\btests/[\w/.]*\w", document.read_text())
    assert [path for path in named if not (ROOT / path).is_dir()] == []


def run(command: list[str], path: str = os.environ["PATH"], **more: str) -> str:
    variables = {**os.environ, "PATH": path, **more}
    process = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize(
    ("document", "containing", "printed"),
    [
        ("README.md", "from hangtag import Client", r"Ankle boot (?:9\d|100)\.\d%\n\(2, 10\)\n(.+\n)\1"),
        ("docs/reference/client.md", "with Client", r"Bag\n"),
        ("docs/reference/client.md", "async with AsyncClient", r"\['Bag', 'Bag'\]\n"),
    ],
)
def test_an_example_in_python_runs(address: str, document: str, containing: str, printed: str) -> None:
    code = example("python", containing, (ROOT / document).read_text()).replace(DEFAULT_ADDRESS, address)
    assert re.fullmatch(printed, run([*OURS, "-c", code]))


def test_the_grpcurl_example(address: str) -> None:
    assert (PEERS / "grpcurl").exists(), f"{PEERS.parent} has no grpcurl: 'make test' sets it up"
    command = example("sh", "grpcurl").replace(DEFAULT_ADDRESS, address)
    response = json.loads(run(["bash", "-ec", command]))
    assert response["labels"][0]["label"] == "Bag"


def make_targets(makefile: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", makefile.read_text(), re.MULTILINE))


def test_every_command_in_the_readme_exists() -> None:
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", README)) - {"alone"} <= make_targets(ROOT / "Makefile")
    for targets in re.findall(r"\bmake -C deploy ([a-z -]+)", README):
        assert set(targets.split()) <= make_targets(ROOT / "deploy/Makefile")


def shell_examples(text: str) -> list[str]:
    """Return the lines of indented blocks and of ```sh blocks, with continued lines joined and without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    blocks += [
        "\n".join(line[4:] for line in re.findall(r"^    .*", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M))
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line.removeprefix("$ ")) for line in lines]


HANGTAG_EXAMPLES = [
    pytest.param(example, id=f"{document.name}: {example[:60]}")
    for document in DOCUMENTS
    for example in shell_examples(document.read_text())
    if example.startswith("hangtag ")
]


@pytest.mark.parametrize("example", HANGTAG_EXAMPLES)
def test_an_example_names_options_that_exist(example: str) -> None:
    """click prints the help only if it knows every option of the command line."""
    invoke(*shlex.split(example)[1:], "--help")


@pytest.mark.parametrize("example", [line for line in shell_examples(README) if line.startswith("hangtag classify")])
def test_a_classify_example_runs_as_it_is_written(example: str, address: str, outfits: str) -> None:
    """The test replaces the examples' ports, 8001 and 8003, by the ports of its servers."""
    command = example.replace("127.0.0.1:8003", outfits)
    shown = run(["bash", "-ec", command], WITH_OUR_PROGRAMS, HANGTAG_SERVER=address)
    (images,) = [word for word in shlex.split(command) if word.startswith("examples/")]
    files = list(ROOT.glob(images))
    assert files
    assert all(file.name in shown for file in files)


def test_the_answer_that_the_page_about_grpc_shows_is_the_answer(outfits: str) -> None:
    page = (ROOT / "docs/reference/grpc.md").read_text()
    (block,) = re.findall(r"```console\n\$ (.*?)```", page, re.DOTALL)
    command, *shown = block.splitlines()
    answer = run(["bash", "-ec", command.replace("127.0.0.1:8003", outfits)], WITH_OUR_PROGRAMS, COLUMNS="120")
    assert [line.rstrip() for line in answer.splitlines()][: len(shown) - 1] == shown[:-1]  # timings differ


@pytest.mark.parametrize(
    "document", sorted({*ROOT.glob("*.md"), *DOCUMENTS}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


def test_the_images_in_examples_are_every_20th_of_the_test_set_with_its_label(garments: Split) -> None:
    with np.load(ROOT / "examples/test-images.npz") as archive:
        assert set(archive) == {"image", "labels"}
        assert np.array_equal(archive["image"], garments.images[::20])
        assert np.array_equal(archive["labels"], garments.classes[::20])
