"""Arguments that cannot be sent, or that the model does not take: ClientError names the argument, in every client."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.serving.client import Client, ClientError
from hangtag.serving.server.process.server import Server

IMAGE = np.zeros((28, 28), np.uint8)
RAGGED = np.array([[1], [1, 2]], object)
HALF = "\ud800"
"""Half of a surrogate pair: text that Python has, and UTF-8 does not."""


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1, 2], "input 'x' must be a numpy array with the input's dtype, not list"),
        (1, "input 'x' must be a numpy array with the input's dtype, not int"),
        (np.array([1j]), "input 'x' cannot be sent: dtype complex128 has no datatype in the protocol"),
        (np.array(["2026-11-28"], "M8[D]"), "input 'x' cannot be sent: dtype datetime64[D] has no datatype"),
        (np.zeros(1, [("a", "i4")]), "input 'x' cannot be sent: dtype [('a', '<i4')] has no datatype"),
        (np.array([HALF]), "input 'x' cannot be sent: an element of BYTES is text that UTF-8 cannot encode: '\\ud800'"),
        (np.array([HALF], object), "input 'x' cannot be sent: an element of BYTES is text that UTF-8 cannot encode"),
        (RAGGED, "input 'x' cannot be sent: an element of BYTES must be bytes or text, not list"),
        (np.array([None]), "input 'x' cannot be sent: an element of BYTES must be bytes or text, not NoneType"),
    ],
    ids=str,
)
def test_an_input_that_the_protocol_cannot_carry_is_named(client: Client, array: Any, message: str) -> None:
    assert message in refused(lambda: client.infer("text", {"x": array}))
    with pytest.raises(ClientError) as caught:
        list(client.infer_stream("text", [{"x": array}]))
    assert message in str(caught.value)
    for released in (TypeError, ValueError):  # what release 0.1.0 raised
        assert isinstance(caught.value, released)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([-1], np.int64), ("image", "INT64", "UINT8")),
        (np.array([256], np.int64), ("image", "INT64", "UINT8")),
        (np.array([2**40]), ("image", "INT64", "UINT8")),
        (np.array([np.nan]), ("image", "FP64", "UINT8")),
    ],
    ids=["-1", "256", "2**40", "NaN"],
)
def test_an_input_that_the_model_does_not_take_is_named(client: Client, array: Any, words: tuple[str, ...]) -> None:
    message = refused(lambda: client.infer("classifier", {"image": array}))
    assert all(word in message for word in words), message


@pytest.mark.skipif(np.__version__ < "2", reason="numpy 1 has no arrays of more than 32 axes")
def test_too_many_axes_are_refused(client: Client) -> None:
    message = refused(lambda: client.infer("classifier", {"image": np.zeros([1] * 33, np.uint8)}))
    assert "shape has 33 axes; at most 32 are supported" in message


def calls(name: Any) -> dict[str, Callable[[Client], object]]:
    """Calls that are given something else for a model's name."""
    return {
        "infer": lambda client: client.infer(name, {}),
        "infer_stream": lambda client: list(client.infer_stream(name, [{}])),
        "an input": lambda client: client.infer("text", {name: IMAGE}),
        "classify": lambda client: client.classify(IMAGE, name),
        "classify_stream": lambda client: list(client.classify_stream([IMAGE], name)),
        "compare": lambda client: client.compare(IMAGE, [name]),
        "version": lambda client: client.classify(IMAGE, "classifier", version=name),
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
    assert "cannot be sent" in refused(lambda: calls(name)[call](client))


@pytest.mark.parametrize("top_k", [-1, 2**40, 1.5, "3"])
def test_a_count_of_labels_out_of_range_is_refused(client: Client, top_k: Any) -> None:
    assert "cannot be sent" in refused(lambda: client.classify(IMAGE, "classifier", top_k=top_k))
    assert "cannot be sent" in refused(lambda: client.compare(IMAGE, ["classifier"], top_k=top_k))


@pytest.mark.parametrize("image", ["boot.png", None, np.zeros((1, 28, 28), np.uint8), np.zeros((28, 28))], ids=repr)
def test_what_is_no_image_is_refused(client: Client, image: Any) -> None:
    for message in (
        refused(lambda: client.classify(image, "classifier")),
        refused(lambda: client.compare(image, ["classifier"])),
    ):
        assert "uint8 [height, width]" in message or "image must be bytes or a numpy array" in message


@pytest.mark.parametrize("command", ["health --model", "classify examples/garments/bag-1.png --model", "models load"])
def test_a_command_names_a_model_that_is_no_text_in_one_line(server: Server, command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "\udcff", "--server", server.address])
    assert result.exit_code == 1
    assert "cannot be sent" in result.stderr
    assert result.stderr.count("\n") == 1
