"""The server reports every mistake in a route.toml with its reason, and serves everything else."""

from collections.abc import Callable, Iterator

import grpc
import numpy as np
import onnx
import pytest
import structlog.testing

from tests.kit import onnx_file, onnx_models
from tests.kit.kinds import message_of
from tests.kit.repository import Repository, Running

ACCEPT = 'accept = {output = "y", at_least = 0.9}'
CASCADE = f'cascade = ["one", "two"]\n{ACCEPT}\n'
SPLIT = "split = {one = 50, two = 50}"
LIST = "cascade must be a list of at least two different models"
RULE = "accept must be an output and one rule"
SHADOW = "shadow must be a model, and a share above 0 and at most 1"
SHARES = "split must be a table of models, whose shares are above 0 and add up to 100"
STICKY = "sticky must be a metadata key"
UNSUITABLE = "with floating-point probabilities of at least two labels"


def accepting(model: str, output: str, rule: str = "at_least = 0.9") -> str:
    """The text of a cascade whose members are two versions of one model."""
    return f'cascade = ["{model}", "{model}@1"]\naccept = {{output = "{output}", {rule}}}'


MISTAKES = {
    "cascade =": "cannot be read as TOML",
    "": "exactly one of the keys cascade and split; the keys of this route: none",
    "cascade = []\nsplit = {}": "exactly one of the keys cascade and split; the keys of this route: cascade, split",
    CASCADE.replace("accept", "acept"): "unknown key 'acept'; a cascade may have cascade, accept,",
    CASCADE.replace("cascade", "cascad"): "the keys of this route: cascad, accept",
    CASCADE + "expected_sent_on = 16.8": "expected_sent_on must be a share of the samples from 0 to 1, not 16.8",
    CASCADE + "expected_sent_on = true": "expected_sent_on must be a share of the samples from 0 to 1, not True",
    "split = {two = 100}\non_overload = 1": "unknown key 'on_overload'; a split may have split, sticky, shadow,",
    f'cascade = ["one"]\n{ACCEPT}': LIST,
    f'cascade = "one"\n{ACCEPT}': LIST,
    f'cascade = ["one", "one"]\n{ACCEPT}': LIST,
    f'cascade = ["one", "../two"]\n{ACCEPT}': "'../two' does not name a model",
    f'cascade = ["one", 1]\n{ACCEPT}': "1 does not name a model",
    'cascade = ["one", "two"]': RULE,
    CASCADE.replace("at_least", "at_lest"): RULE,
    CASCADE.replace(
        "= 0.9", "= 0.9, entropy_at_most = 1"
    ): "not {'at_least': 0.9, 'entropy_at_most': 1, 'output': 'y'}",
    CASCADE.replace("0.9", "1.1"): RULE,
    CASCADE.replace("0.9", f"1{400 * '0'}"): RULE,
    CASCADE.replace("0.9", "true"): RULE,
    CASCADE + 'on_overload = "wait"': 'on_overload must be "answer" or "refuse", not \'wait\'',
    CASCADE + 'shadow = "one"': SHADOW,
    CASCADE + 'shadow = {model = "one", shre = 1}': SHADOW,
    CASCADE + 'shadow = {model = "one", share = 10}': SHADOW,
    CASCADE + 'shadow = {model = "/", share = 1}': "'/' does not name a model",
    "split = {}": SHARES,
    "split = {two = 90}": "add up to 100 (percent), as in {cnn = 90, \"cnn@1\" = 10}, not {'two': 90}",
    "split = {one = 100, two = 0}": SHARES,
    'split = {two = "all"}': SHARES,
    "split = {two = 100}\ndescription = 1": "description must be a text, not 1",
    'split = {two = 100}\nsticky = "x user"': STICKY,
    'split = {two = 100}\nsticky = "grpc-user"': STICKY,
    "split = {one = 50, three = 50}": "its member three does not serve. The versions of three in the repository: none",
    'split = {one = 50, "two@7" = 50}': "its member two@7 does not serve. The versions of two in the repository: 2, 1",
    'split = {one = 50, "two@1" = 50}': "that serve: 2. With --model-control explicit, load",
    'split = {one = 50, "sound@2" = 50}': "sound is a route, which has only version 1",
    "split = {one = 50, index = 50}": "one and index differ in their inputs: x: FP32 [any, 2] and index",
    "split = {pictures = 50, cropped = 50}": "how pictures are resized: garment and crop",
    'split = {one = 100}\nshadow = {model = "tow", share = 1}': "its shadow tow does not serve",
    'split = {index = 100}\nshadow = {model = "index", share = 1}': "a shadow compares labels",
    CASCADE.replace('"y"', '"z"'): "not 'z' ('logits' has no probabilities). The outputs are y: FP32",
    accepting("index", "value"): UNSUITABLE,
    accepting("sums", "double"): UNSUITABLE,
    accepting("one_label", "total"): UNSUITABLE,
    accepting("fixed", "y"): "its models do not accept batches",
    accepting("lengths", "y"): "so outputs must not have free sizes",
    accepting("pictures", "logits"): UNSUITABLE,
    "split = {one = 50, circle_0 = 50}": "a route must not lead back to itself: circle_0 -> circle_0",
    "split = {one = 50, circle_2 = 50}": "a route must not lead back to itself: circle_1 -> circle_2 -> circle_1",
}
CIRCLES = ["circle_0", "circle_1"]
NAMES = dict(
    zip(MISTAKES, [f"mistake_{number}" for number in range(len(MISTAKES) - len(CIRCLES))] + CIRCLES, strict=True)
)
SOUND = {
    "sound": SPLIT,
    "pictures_sound": accepting("pictures", "probabilities"),
    "halves": accepting("all", "out_FP16"),
}


def doubled(shape: str) -> onnx.ModelProto:
    return onnx_models.from_text(f"(float{shape} x) => (float{shape} y) {{ y = Add(x, x) }}")


def cropped() -> onnx.ModelProto:
    """The classifier of garments, with metadata that asks for cropped pictures."""
    return onnx_file.with_metadata(onnx_models.classifier(), image='{"height": 28, "width": 28, "fit": "crop"}')


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "index": onnx_models.gather,
    "sums": onnx_models.two_inputs,
    "one_label": onnx_models.free_axis,
    "pictures": onnx_models.classifier,
    "cropped": cropped,
    "all": onnx_models.every_type,
    "fixed": lambda: doubled("[1, 2]"),
    "lengths": lambda: doubled("[batch, length]"),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with valid routes, and with one route for each mistake."""
    repository = Repository(tmp_path_factory.mktemp("routes") / "models")
    for name in ("one", "two"):
        repository.publish(name)
    repository.publish("two", 2)
    for name, make in MODELS.items():
        repository.publish(name, model=make())
    for text, name in NAMES.items():
        repository.route(name, text)
    repository.route("circle_2", "split = {two = 50, circle_1 = 50}")
    for name, text in SOUND.items():
        repository.route(name, text)
    return repository


@pytest.fixture(scope="module")
def polling(mistaken: Repository) -> Iterator[Running]:
    with Running(mistaken.folder, "poll") as running:
        yield running


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_reported_with_its_reason(polling: Running, mistaken: Repository, text: str) -> None:
    name, reason = NAMES[text], MISTAKES[text]
    assert reason in polling.reason(name)
    message = message_of(grpc.StatusCode.NOT_FOUND, polling.answer, name)
    assert ("out of service" in message, reason in message) == (True, True)
    assert polling.loads(name) == (0, 1)


def test_everything_else_serves_and_a_mistake_is_not_reported_again(polling: Running, mistaken: Repository) -> None:
    assert set(polling.served()) == {"one", "two", *MODELS, *SOUND}
    assert polling.answer("sound") in (1, 2)
    assert polling.poll() == []


@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_in_every_mode_a_mistake_is_logged_once_and_a_load_by_call_has_the_reason(
    mistaken: Repository, repository: Repository, mode: str
) -> None:
    members = ("one", "two", *MODELS, *SOUND)
    loaded = dict(list(NAMES.items())[::8])  # only a few, because each load reads the files of all routes
    with structlog.testing.capture_logs() as log:
        running = repository.start(mode, models=mistaken.folder, load_model=members if mode == "explicit" else ())
        if mode == "explicit":
            for text, name in loaded.items():
                message = message_of(grpc.StatusCode.FAILED_PRECONDITION, running.client.load_model, name)
                assert MISTAKES[text] in message
    assert set(running.served()) == {*members}
    reported = {line["model"]: line["reason"] for line in log if line["event"] == "route not loaded"}
    for text, name in (NAMES if mode == "none" else loaded).items():
        assert MISTAKES[text] in reported[name]


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_routes_file_beside_a_models_versions_is_reported_once_and_not_followed(
    repository: Repository, mode: str
) -> None:
    repository.route("two", "split = {one = 100}")
    with structlog.testing.capture_logs() as log:
        running = repository.start(mode)
    if mode == "poll":
        log += running.poll()
    assert [line["model"] for line in log if line["event"] == "route.toml not followed"] == ["two"]
    assert (running.served(), running.infer("two").stages) == ({"one": [1], "two": [1]}, ())


PROBABILITIES = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3], [np.nan, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("rule", "stages"),
    [
        ("at_least = 0.6", [1, 2, 1, 2]),
        ("at_least = 0.5", [1, 1, 1, 2]),
        ("margin_at_least = 0.5", [1, 2, 2, 2]),
        ("entropy_at_most = 0.9", [1, 2, 1, 2]),  # the samples' entropies are 0.47, 1 and 0.88 bits
        ("entropy_at_most = 0.5", [1, 2, 2, 2]),
    ],
)
def test_a_rule_decides_for_each_sample_and_never_accepts_a_nan(
    repository: Repository, rule: str, stages: list[int]
) -> None:
    repository.publish("same", model=onnx_models.shifted(0))
    repository.route("both", f'cascade = ["same", "one"]\naccept = {{output = "y", {rule}}}')
    outputs = repository.start().client.infer("both", {"x": PROBABILITIES})
    assert outputs.sample_stages == tuple(stages)
    expected = np.where(np.array(stages)[:, None] == 1, PROBABILITIES, PROBABILITIES + 1)
    np.testing.assert_array_equal(outputs["y"], expected)
