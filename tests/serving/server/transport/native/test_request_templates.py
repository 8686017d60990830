"""A request that is recognised by its head is answered to the byte as one that is parsed."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.engine.repository import versions
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.native.request_templates import MAX_FORMS, Form, Forms, _varint
from hangtag.serving.signature import Signature
from tests.serving.server.parts import FakeRuntime, rows, served
from tests.serving.server.transport.live import request

Request = pb.ModelInferRequest


@pytest.fixture
def model() -> ServedModel:
    return served(FakeRuntime())


def plain(*values: float) -> Request:
    return request("double", **rows(*values))


def learn(forms: Forms, model: ServedModel, sent: Request, message: bytes | None = None) -> Form | None:
    inputs, datatypes = codec.decode_inputs(sent)
    specs = codec.requested_outputs(sent, model.signature)
    return forms.learn(message or sent.SerializeToString(), sent, model, specs, *model.check(inputs, datatypes))


def test_other_contents_have_the_same_form(model: ServedModel) -> None:
    forms = Forms()
    form = learn(forms, model, plain(1, 2))
    assert form is not None
    other = plain(3, 4).SerializeToString()
    assert forms.find(other) is form
    assert form.samples == 2
    assert form.inputs(other)["x"].tolist() == [[3, 3], [4, 4]]


@pytest.mark.parametrize(
    "change",
    [
        lambda sent: setattr(sent, "id", "1"),
        lambda sent: setattr(sent, "model_name", "other"),
        lambda sent: setattr(sent, "model_version", "3"),
        lambda sent: sent.parameters["a"].MergeFrom(pb.InferParameter(bool_param=True)),
        lambda sent: sent.outputs.add(name="y"),
        lambda sent: setattr(sent.inputs[0], "name", "z"),
        lambda sent: setattr(sent.inputs[0], "datatype", "INT32"),
        lambda sent: sent.inputs[0].shape.__setitem__(slice(None), [2, 1]),
        lambda sent: sent.raw_input_contents.append(b""),
        lambda sent: sent.raw_input_contents.__setitem__(0, bytes(7)),
    ],
)
def test_any_other_difference_is_another_form_or_none(model: ServedModel, change: object) -> None:
    forms = Forms()
    learn(forms, model, plain(1))
    sent = plain(1)
    change(sent)  # type: ignore[operator]
    assert forms.find(sent.SerializeToString()) is None


def typed() -> Request:
    sent = plain(1)
    sent.ClearField("raw_input_contents")
    sent.inputs[0].contents.fp32_contents.extend([1, 1])
    return sent


def with_id() -> Request:
    sent = plain(1)
    sent.id = "1"
    return sent


@pytest.mark.parametrize("sent", [typed(), with_id()], ids=["typed contents", "an id"])
def test_what_its_head_does_not_decide_has_no_form(model: ServedModel, sent: Request) -> None:
    assert learn(Forms(), model, sent) is None


def test_contents_that_are_not_the_last_field_have_no_form(model: ServedModel) -> None:
    sent = plain(1)
    bare = Request()
    bare.CopyFrom(sent)
    bare.ClearField("raw_input_contents")
    contents = Request(raw_input_contents=sent.raw_input_contents).SerializeToString()
    message = contents + bare.SerializeToString()
    assert Request.FromString(message) == sent
    assert learn(Forms(), model, sent, message) is None
    unknown_field_after = sent.SerializeToString() + b"\xf8\x07\x01"
    assert learn(Forms(), model, sent, unknown_field_after) is None


def test_contents_that_look_like_a_head_are_not_one(model: ServedModel) -> None:
    """The raw contents end with what would be the key, the length and the bytes of other contents."""
    forms = Forms()
    inner = b"\x3a\x08" + bytes(8)
    sent = plain(1, 2, 3)
    sent.raw_input_contents[0] = bytes(24 - len(inner)) + inner
    learn(forms, model, sent)
    short = plain(1)
    learn(forms, model, short)
    for message in (sent.SerializeToString(), short.SerializeToString()):
        form = forms.find(message)
        assert form is not None
        parsed, _ = codec.decode_inputs(Request.FromString(message))
        np.testing.assert_array_equal(form.inputs(message)["x"], parsed["x"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=40),
    st.sampled_from([[], ["y"]]),
    st.sampled_from(["", "3"]),
)
def test_the_answer_is_what_the_codec_writes(values: list[float], names: list[str], version: str) -> None:
    model = served(FakeRuntime())
    forms = Forms()
    sent = plain(*values)
    sent.model_version = version
    sent.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in names)
    form = learn(forms, model, sent)
    assert form is not None
    for _ in range(2):  # the first answer learns its head
        outputs = model.runtime.run(form.inputs(sent.SerializeToString()))
        specs = codec.requested_outputs(sent, model.signature)
        written = codec.encode_response(sent, model.version, specs, outputs)
        answered = form.answer(outputs)
        assert pb.ModelInferResponse.FromString(answered) == written
        assert tensors.from_raw("FP32", (len(values), 2), written.raw_output_contents[0]).shape == (len(values), 2)


def test_several_outputs_of_changing_shapes(repository: Path) -> None:
    model = load_model(versions(repository, "classifier")[0], ServerConfig(models=repository))
    forms = Forms()
    for count in (1, 3, 1, 2):
        sent = request("classifier", image=np.full((count, 28, 28), count, np.uint8))
        message = sent.SerializeToString()
        form = forms.find(message) or learn(forms, model, sent)
        assert form is not None
        outputs = model.runtime.run(form.inputs(message))
        written = codec.encode_response(sent, model.version, model.signature.outputs, outputs)
        assert pb.ModelInferResponse.FromString(form.answer(outputs)) == written


def test_a_flood_of_heads_takes_no_more_than_so_many_forms(model: ServedModel) -> None:
    forms = Forms()
    for count in range(1, 61):
        for version in ("", "3", "03", "003", "0003"):
            sent = plain(*range(count))
            sent.model_version = version
            learn(forms, model, sent)
    assert len(forms._by_head) <= MAX_FORMS
    assert len(forms._contents_sizes) <= MAX_FORMS
    huge = plain(1)
    huge.model_name = "m" * 2000
    assert learn(forms, model, huge) is None


def test_a_text_output_has_no_form() -> None:
    runtime = FakeRuntime()
    (output,) = runtime.signature.outputs
    text = type(output)("y", "BYTES", output.shape)
    runtime.signature = Signature(runtime.signature.inputs, (text,))
    assert learn(Forms(), served(runtime), plain(1)) is None


@given(st.integers(1, 2**40))
def test_lengths_are_written_as_protobuf_writes_them(value: int) -> None:
    message = pb.StatisticDuration(count=value).SerializeToString()
    assert message[1:] == _varint(value)  # after the key, of one byte


def test_forms_of_a_model_that_was_replaced_are_forgotten_with_it(repository: Path) -> None:
    forms = Forms()
    config, file = ServerConfig(models=repository), versions(repository, "classifier")[0]
    old, new = load_model(file, config), load_model(file, config)
    sent = [request("classifier", image=np.zeros((count, 28, 28), np.uint8)) for count in (1, 2, 3)]
    for each in sent:
        assert learn(forms, old, each)
    assert learn(forms, new, sent[0])
    assert [forms.find(each.SerializeToString()) is None for each in sent] == [False, True, True]


def test_a_form_does_not_keep_its_model(repository: Path) -> None:
    forms = Forms()
    model = load_model(versions(repository, "classifier")[0], ServerConfig(models=repository))
    sent = request("classifier", image=np.zeros((1, 28, 28), np.uint8))
    form = learn(forms, model, sent)
    assert form is not None
    assert form.model is model
    gone = weakref.ref(model)
    del model
    gc.collect()  # a model and its threads that were not started refer to each other
    assert gone() is None
    assert form.model is None
    assert learn(forms, load_model(versions(repository, "classifier")[0], ServerConfig(models=repository)), sent)
    assert len(forms._by_head) == 1
