"""An error about an argument that a client cannot send, or that the server refuses, names the argument."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import Client
from hangtag.serving.server.process.server import Server
from tests.kit.command import invoke
from tests.kit.kinds import message_of

PIXELS = np.random.default_rng(7).integers(0, 256, (28, 28), dtype=np.uint8)
HALF = "\ud800"
"""Half of a surrogate pair: text that Python can hold but UTF-8 cannot encode."""
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("array", "fact"),
    [
        ([1, 2], "not list"),
        (1, "not int"),
        (np.array([1j]), "complex128"),
        (np.array(["2026-11-28"], "M8[D]"), "datetime64[D]"),
        (np.zeros(1, [("a", "i4")]), "[('a', '<i4')]"),
        (np.array([HALF]), "'\\ud800'"),
        (np.array([HALF], object), "UTF-8"),
        (np.array([[1], [1, 2]], object), "not list"),
        (np.array([None]), "not NoneType"),
    ],
    ids=str,
)
def test_an_input_that_the_protocol_cannot_carry_is_named(client: Client, array: Any, fact: str) -> None:
    for call in (lambda: client.infer("text", {"x": array}), lambda: list(client.infer_stream("text", [{"x": array}]))):
        message = message_of(INVALID, call)
        assert "input 'x' " in message
        assert fact in message
        for released in (TypeError, ValueError):  # release 0.1.0 raised these
            with pytest.raises(released):
                call()


@pytest.mark.parametrize(
    "array", [np.array([-1]), np.array([256]), np.array([2**40]), np.array([np.nan])], ids=lambda array: str(array)
)
def test_an_input_that_the_model_does_not_take_is_named(client: Client, array: Any) -> None:
    message = message_of(INVALID, client.infer, "classifier", {"image": array})
    assert all(word in message for word in ("image", "UINT8", "FP64" if np.isnan(array) else "INT64")), message


@pytest.mark.skipif(np.__version__ < "2", reason="numpy 1 has no arrays of more than 32 axes")
def test_too_many_axes_are_refused(client: Client) -> None:
    assert "33 axes" in message_of(INVALID, client.infer, "classifier", {"image": np.zeros([1] * 33, np.uint8)})


def calls(name: Any) -> dict[str, Callable[[Client], object]]:
    """Calls with ``name`` in place of the name of a model, the name of an input, or a version."""
    return {
        "infer": lambda client: client.infer(name, {}),
        "infer_stream": lambda client: list(client.infer_stream(name, [{}])),
        "an input": lambda client: client.infer("text", {name: PIXELS}),
        "classify": lambda client: client.classify(PIXELS, name),
        "classify_stream": lambda client: list(client.classify_stream([PIXELS], name)),
        "compare": lambda client: client.compare(PIXELS, [name]),
        "version": lambda client: client.classify(PIXELS, "classifier", version=name),
        "parameters": lambda client: client.parameters(name),
        "load_model": lambda client: client.load_model(name),
        "unload_model": lambda client: client.unload_model(name),
        "is_ready": lambda client: client.is_ready(name),
        "require_ready": lambda client: client.require_ready(name),
        "wait_until_ready": lambda client: client.wait_until_ready(0.1, name),
    }


@pytest.mark.parametrize("name", [HALF, 5], ids=["half of a pair", "a number"])
@pytest.mark.parametrize("call", calls(""))
def test_a_name_that_is_no_text_is_refused(client: Client, call: str, name: Any) -> None:
    assert "cannot be sent" in message_of(INVALID, calls(name)[call], client)


@pytest.mark.parametrize("top_k", [-1, 2**40, 1.5, "3"])
def test_a_count_of_labels_out_of_range_is_refused(client: Client, top_k: Any) -> None:
    for call in (
        lambda: client.classify(PIXELS, "classifier", top_k=top_k),
        lambda: client.compare(PIXELS, ["classifier"], top_k=top_k),
    ):
        assert "cannot be sent" in message_of(INVALID, call)


@pytest.mark.parametrize(
    ("image", "fact"),
    [
        ("boot.png", "not str"),
        (None, "not NoneType"),
        (np.zeros((1, 28, 28), np.uint8), "uint8 [1, 28, 28]"),
        (np.zeros((28, 28)), "float64 [28, 28]"),
    ],
    ids=["a path", "None", "three axes", "float64"],
)
def test_what_is_no_image_is_refused(client: Client, image: Any, fact: str) -> None:
    for call in (
        lambda: client.classify(image, "classifier"),
        lambda: client.compare(image, ["classifier"]),
        lambda: list(client.classify_stream([image], "classifier")),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert fact in message_of(INVALID, call) == str(caught.value)


@pytest.mark.parametrize("command", ["health --model", "classify examples/garments/bag-1.png --model", "models load"])
def test_a_command_names_a_model_that_is_no_text_in_one_line(server: Server, command: str) -> None:
    result = invoke(*command.split(), "\udcff", "--server", server.address, exit_code=1)
    assert result.stderr.count("\n") == 1
    assert "cannot be sent" in result.stderr
