"""The examples in Client's docstrings run as they stand, against a server of the shipped models."""

import doctest
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hangtag import Client
from tests.serving.command import serving

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    control = ("--model-control", "explicit", "--load-model", "*")
    with serving("--models", str(ROOT / "models"), "--port", "0", "--provider", "cpu", *control) as running:
        yield running.wait_until_ready()


def public_methods() -> list[str]:
    return [name for name, member in vars(Client).items() if callable(member) and not name.startswith("_")]


@pytest.mark.parametrize("name", ["Client", *public_methods()])
def test_the_example_runs(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    docstring = (Client if name == "Client" else getattr(Client, name)).__doc__ or ""
    image = (ROOT / "examples/garments/bag-1.png").read_bytes()
    with Client(address) as client:
        for model in ("cnn", "lstm"):  # the example of statistics counts these calls
            client.classify(image, model)
        variables = {"client": client, "image": image, "np": np}
        code = docstring.replace("127.0.0.1:8001", address)
        example = doctest.DocTestParser().get_doctest(code, variables, name, None, None)
        assert example.examples
        output: list[str] = []
        result = doctest.DocTestRunner(verbose=False).run(example, out=output.append)
        if name == "unload_model":  # the other examples need it
            client.load_model("lstm2")
    assert result.failed == 0, "".join(output)
