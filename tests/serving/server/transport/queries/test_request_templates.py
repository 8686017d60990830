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
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.engine.repository import versions
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.queries.request_templates import (
    MAX_TEMPLATES,
    RequestTemplate,
    RequestTemplates,
    _varint,
)
from hangtag.serving.signature import Signature
from tests.kit.live import request
from tests.serving.server.parts import FakeRuntime, rows, served

Request = pb.ModelInferRequest
NO_TIME = Timings(0, 0, 0, 0, 1)


@pytest.fixture
def model() -> ServedModel:
    return served(FakeRuntime())


def plain(*values: float) -> Request:
    return request("double", **rows(*values))


def learn(
    templates: RequestTemplates, model: ServedModel, sent: Request, message: bytes | None = None
) -> RequestTemplate | None:
    inputs, datatypes = codec.decode_inputs(sent, model.signature)
    specs = codec.requested_outputs(sent, model.signature)
    return templates.learn(message or sent.SerializeToString(), sent, model, specs, model.check(inputs, datatypes))


def test_other_contents_have_the_same_template(model: ServedModel) -> None:
    templates = RequestTemplates()
    template = learn(templates, model, plain(1, 2))
    assert template is not None
    other = plain(3, 4).SerializeToString()
    assert templates.find(other) is template
    assert template.admission == (2, None)
    assert template.inputs(other)["x"].tolist() == [[3, 3], [4, 4]]


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
    templates = RequestTemplates()
    learn(templates, model, plain(1))
    sent = plain(1)
    change(sent)  # type: ignore[operator]
    assert templates.find(sent.SerializeToString()) is None


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
def test_what_its_head_does_not_decide_has_no_template(model: ServedModel, sent: Request) -> None:
    assert learn(RequestTemplates(), model, sent) is None


def test_contents_that_are_not_the_last_field_have_no_template(model: ServedModel) -> None:
    sent = plain(1)
    bare = Request()
    bare.CopyFrom(sent)
    bare.ClearField("raw_input_contents")
    contents = Request(raw_input_contents=sent.raw_input_contents).SerializeToString()
    message = contents + bare.SerializeToString()
    assert Request.FromString(message) == sent
    assert learn(RequestTemplates(), model, sent, message) is None
    unknown_field_after = sent.SerializeToString() + b"\xf8\x07\x01"
    assert learn(RequestTemplates(), model, sent, unknown_field_after) is None


def test_contents_that_look_like_a_head_are_not_one(model: ServedModel) -> None:
    """The raw contents end with what would be the key, the length and the bytes of other contents."""
    templates = RequestTemplates()
    inner = b"\x3a\x08" + bytes(8)
    sent = plain(1, 2, 3)
    sent.raw_input_contents[0] = bytes(24 - len(inner)) + inner
    learn(templates, model, sent)
    short = plain(1)
    learn(templates, model, short)
    for message in (sent.SerializeToString(), short.SerializeToString()):
        template = templates.find(message)
        assert template is not None
        parsed, _ = codec.decode_inputs(Request.FromString(message), model.signature)
        np.testing.assert_array_equal(template.inputs(message)["x"], parsed["x"])


def test_a_head_before_contents_of_another_size_has_no_template(model: ServedModel) -> None:
    """Its array would begin before the message."""
    templates = RequestTemplates()
    small, large = plain(1), plain(1, 2, 3)
    assert learn(templates, model, small) is not None
    assert learn(templates, model, large) is not None
    head = large.SerializeToString()[:-24]
    assert len(head) + 8 == len(small.SerializeToString())
    assert templates.find(head + bytes(8)) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=40),
    st.sampled_from([[], ["y"]]),
    st.sampled_from(["", "3"]),
)
def test_the_answer_is_what_the_codec_writes(values: list[float], names: list[str], version: str) -> None:
    model = served(FakeRuntime())
    templates = RequestTemplates()
    sent = plain(*values)
    sent.model_version = version
    sent.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in names)
    template = learn(templates, model, sent)
    assert template is not None
    for _ in range(2):  # the first answer learns its head
        outputs = model.runtime.run(template.inputs(sent.SerializeToString()))
        specs = codec.requested_outputs(sent, model.signature)
        written = codec.encode_response(sent, model.version, specs, outputs)
        answered = template.encode(InferenceResult(outputs, NO_TIME))
        assert pb.ModelInferResponse.FromString(answered) == written
        assert tensors.from_raw("FP32", (len(values), 2), written.raw_output_contents[0]).shape == (len(values), 2)


def test_several_outputs_of_changing_shapes(repository: Path) -> None:
    model = load_model(versions(repository, "classifier")[0], ServerConfig(models=repository))
    templates = RequestTemplates()
    for count in (1, 3, 1, 2):
        sent = request("classifier", image=np.full((count, 28, 28), count, np.uint8))
        message = sent.SerializeToString()
        template = templates.find(message) or learn(templates, model, sent)
        assert template is not None
        outputs = model.runtime.run(template.inputs(message))
        written = codec.encode_response(sent, model.version, model.signature.outputs, outputs)
        assert pb.ModelInferResponse.FromString(template.encode(InferenceResult(outputs, NO_TIME))) == written


def test_a_flood_of_heads_takes_no_more_than_so_many_templates(model: ServedModel) -> None:
    templates = RequestTemplates()
    for count in range(1, 61):
        for version in ("", "3", "03", "003", "0003"):
            sent = plain(*range(count))
            sent.model_version = version
            learn(templates, model, sent)
    assert len(templates._by_head) <= MAX_TEMPLATES
    assert len(templates._contents_sizes) <= MAX_TEMPLATES
    huge = plain(1)
    huge.model_name = "m" * 2000
    assert learn(templates, model, huge) is None


def test_a_text_output_has_no_template() -> None:
    runtime = FakeRuntime()
    (output,) = runtime.signature.outputs
    text = type(output)("y", "BYTES", output.shape)
    runtime.signature = Signature(runtime.signature.inputs, (text,))
    assert learn(RequestTemplates(), served(runtime), plain(1)) is None


@given(st.integers(1, 2**40))
def test_lengths_are_written_as_protobuf_writes_them(value: int) -> None:
    message = pb.StatisticDuration(count=value).SerializeToString()
    assert message[1:] == _varint(value)  # after the key, of one byte


def test_templates_of_a_model_that_was_replaced_are_forgotten_with_it(repository: Path) -> None:
    templates = RequestTemplates()
    config, file = ServerConfig(models=repository), versions(repository, "classifier")[0]
    old, new = load_model(file, config), load_model(file, config)
    sent = [request("classifier", image=np.zeros((count, 28, 28), np.uint8)) for count in (1, 2, 3)]
    for each in sent:
        assert learn(templates, old, each)
    assert learn(templates, new, sent[0])
    assert [templates.find(each.SerializeToString()) is None for each in sent] == [False, True, True]


def test_a_template_does_not_keep_its_model(repository: Path) -> None:
    templates = RequestTemplates()
    model = load_model(versions(repository, "classifier")[0], ServerConfig(models=repository))
    sent = request("classifier", image=np.zeros((1, 28, 28), np.uint8))
    template = learn(templates, model, sent)
    assert template is not None
    assert template.model() is model
    gone = weakref.ref(model)
    del model
    gc.collect()  # a model and its threads that were not started refer to each other
    assert gone() is None
    assert template.model() is None
    assert learn(templates, load_model(versions(repository, "classifier")[0], ServerConfig(models=repository)), sent)
    assert len(templates._by_head) == 1
