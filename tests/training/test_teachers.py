"""Training with teachers: which files may teach, what teachers answer, and how the student uses the answers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from hangtag.training.recipes import Augmentation, Distillation
from tests.kit import garments, onnx_file, onnx_models, shipped
from tests.kit.command import contents, invoke, refusal
from tests.kit.garments import Images
from tests.training.small_runs import DiedError, command, config, dying, learn, read, state, train, watching

pytestmark = pytest.mark.slow

Logits = npt.NDArray[np.float32]
CNN, LSTM = (shipped.latest(name) for name in ("cnn", "lstm"))
BEST = command("lstm", "--recipe", "best")


def answers(file: Path, images: Images) -> Logits:
    """A model's mean logits for each image and its mirror image."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    both = [session.run(["logits"], {"image": np.ascontiguousarray(seen)})[0] for seen in (images, images[:, :, ::-1])]
    logits: Logits = np.mean(both, axis=0)
    return logits


def test_several_teachers_answer_once_are_averaged_and_may_be_moved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with dying(writes=2), pytest.raises(DiedError):  # config.json and teacher.pt
        invoke(*BEST, "--teacher", CNN, "--teacher", LSTM, "--out", run)
    images = garments.few().train.images[:64]
    logits = state(run, "teacher.pt")["logits"].numpy()
    np.testing.assert_allclose(logits, (answers(CNN, images) + answers(LSTM, images)) / 2, rtol=1e-4, atol=1e-4)

    whole = (run / "teacher.pt").read_bytes()
    torch.save({"logits": torch.zeros(65, 10)}, run / "teacher.pt")
    other = refusal(*BEST, "--teacher", CNN, "--teacher", LSTM, "--out", run)
    assert other.startswith(f"{run / 'teacher.pt'} holds no logits of this run's images.")
    (run / "teacher.pt").write_bytes(whole)

    moved = Path(shutil.copy(LSTM, tmp_path / "moved.onnx"))
    taught = invoke(*BEST, "--teacher", moved, "--teacher", CNN, "--out", run)
    assert f"learning from {moved} and {CNN}" in taught.stderr
    assert [file["path"] for file in read(run, "config.json")["teachers"]] == [str(moved), str(CNN)]
    assert not {"teacher.pt", "checkpoint.pt"} & contents(run).keys()
    assert "is already finished" in invoke(*BEST, "--teacher", CNN, "--teacher", LSTM, "--out", run).stderr
    assert "holds a run with another teacher (teacher: " in refusal(*BEST, "--teacher", CNN, "--out", run)

    assert "another teacher" in refusal(*BEST, "--teacher", LSTM, "--out", run)


def test_all_published_versions_teach_unless_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model, recipe in (("lstm", "best"), ("cnn", "same-view")):
        none = refusal("train", model, "--recipe", recipe)
        network, precision = ("resnet", "") if model == "lstm" else ("resnet-28x28", "--precision int8 ")
        assert f"no {network}" in none
        assert f"train {network} --recipe teacher, then hangtag export {network} {precision}--models runs/teach" in none
    files = [Path("runs/teachers/resnet", version, "model.onnx") for version in ("2", "10", "notes")]
    for file, source in zip(files, (LSTM, CNN, CNN), strict=True):
        file.parent.mkdir(parents=True)
        shutil.copy(source, file)
    taught = invoke(*BEST, "--out", tmp_path / "run")
    assert f"learning from {files[0]} and {files[1]}\n" in taught.stderr


# Models that cannot teach.


def edited(edit: Callable[[onnx.ModelProto], object]) -> bytes:
    """The shipped cnn, changed by ``edit``."""
    model = onnx.load(CNN)
    edit(model)
    return model.SerializeToString()


def rename_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "scores"
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        node.input[:] = ["scores" if name == "logits" else name for name in node.input]


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32


def relabelled(labels: str) -> bytes:
    return onnx_file.with_metadata(CNN, labels=labels).SerializeToString()


def spoil(model: onnx.ModelProto) -> None:
    onnx_file.add(model, "network.classifier.6.bias", np.nan)


def only_32() -> bytes:
    """A model that declares a dynamic number of images but accepts only 32."""
    model = onnx_models.from_text(
        """(uint8[batch, 28, 28] image) => (float[batch, 10] logits)
        <int64[2] shape = {32, 784}, int64[1] from = {0}, int64[1] to = {10}, int64[1] axis = {1}> {
            pixels = Cast <to = 1> (image)
            rows = Reshape(pixels, shape)
            logits = Slice(rows, from, to, axis)
        }"""
    )
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: edited(rename_logits), "must have the input image: UINT8 [batch, 28, 28]"),
        (lambda: edited(fix_batch), "for batches of any size"),
        (lambda: relabelled(json.dumps(["a", "b"])), 'has the labels ["a", "b"]; it must have ["T-shirt/top", '),
        (lambda: relabelled("10"), "has the labels 10; it must have"),
        (lambda: edited(spoil), "returned NaN or infinite logits for 64 of 64 images"),
        (only_32, "fails on the images ("),
        (lambda: CNN.read_bytes()[:1000], "cannot be loaded as a model"),
        (LSTM.read_bytes, "are the same model"),
    ],
    ids=["outputs", "batch", "labels", "no labels", "not finite", "fails", "truncated", "named twice"],
)
def test_a_model_that_cannot_teach_is_refused_before_the_first_step(
    tmp_path: Path, file: Callable[[], bytes], message: str
) -> None:
    (tmp_path / "other.onnx").write_bytes(file())
    refused = refusal(*BEST, "--teacher", tmp_path / "other.onnx", "--teacher", LSTM, "--out", tmp_path / "run")
    assert str(tmp_path / "other.onnx") in refused
    assert message in refused
    assert not [name for name in ("metrics.json", "teacher.pt") if (tmp_path / "run" / name).exists()]


def test_a_missing_file_and_one_without_labels(tmp_path: Path) -> None:
    missing = refusal(*BEST, "--teacher", tmp_path / "cnn.onnx", "--out", tmp_path / "run")
    assert "cannot be read (No such file or directory)" in missing
    model = onnx.load(LSTM)
    del model.metadata_props[:]  # a teacher needs no metadata, only the right number of logits
    onnx.save(model, tmp_path / "bare.onnx")
    train("lstm", tmp_path / "run", "--recipe", "best", "--teacher", tmp_path / "bare.onnx")


# Students.


@pytest.mark.parametrize("views", [0, 3])
def test_a_student_learns_what_the_teacher_answers_to_the_view_that_it_sees(tmp_path: Path, views: int) -> None:
    """The teacher computes logits for ``views`` views of each image (0: for the image itself)."""
    to_teacher: list[Images] = []

    def answer(images: Images) -> Logits:
        """Logits that depend on the view, but not on whether the view is mirrored."""
        logits: Logits = np.eye(10, dtype=np.float32)[images.sum((1, 2), dtype=np.int64) % 10]
        return logits

    def teacher(images: Images) -> Logits:
        to_teacher.append(images)
        return answer(images)

    plain = config(limit=64, epochs=4)
    recipe = replace(
        plain.recipe,
        batch_size=64,
        augmentation=Augmentation(flip=True, shift=2, erase=1.0) if views else Augmentation(),
        distillation=Distillation("cnn", weight=1.0, temperature=2.0, views=views),
    )
    with watching(answer) as to_student:  # the student repeats the teacher's answers
        learn(replace(plain, recipe=recipe), garments.few(), tmp_path, teacher=teacher)
    # If the student may receive mirrored views, the teacher also classifies each view's mirror image.
    assert [len(images) for images in to_teacher] == ([views * 64] * 2 if views else [64])
    losses = [row["train_loss"] for row in read(tmp_path)["epochs"]]
    assert losses == [pytest.approx(0.0, abs=1e-6)] * 4
    original, flipped = ({image.tobytes() for image in images} for images in (to_teacher * 2)[:2])
    seen = [{image.tobytes() for image in images} for images in to_student]
    assert [len(images) for images in to_student] == [64] * 4
    assert set().union(*seen) <= original | flipped
    if views:
        assert len(set(map(frozenset, seen))) > 1  # the views change from epoch to epoch
        assert 0 < len(seen[0] & flipped) < 64
    else:
        assert seen == [original] * 4
