"""A worker process that trains the study's networks in Keras as the study did: `model.fit`, batch 32, default Adam.

It runs in an environment of its own (.venv-keras). Its arguments are the number of threads and a file of images and
classes. Each line on stdin names a model and a number of steps; each line on stdout is the milliseconds of a step.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

BATCH_SIZE = 32


def build(name: str) -> keras.Model:
    """A compiled network. Raises KeyError for a name that the study does not have."""
    bodies: dict[str, Callable[[], list[keras.Layer]]] = {
        "lstm": _lstm,
        "lstm-56": partial(_lstm, 56),
        "lstm-280": partial(_lstm, 280),
        "lstm2": _lstm2,
        "cnn": _cnn,
    }
    model = keras.Sequential([keras.Input((28, 28)), *bodies[name](), layers.Dense(10, activation="softmax")])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _lstm(hidden_size: int = 186) -> list[keras.Layer]:
    return [layers.LSTM(hidden_size), layers.Dropout(0.2)]


def _lstm2() -> list[keras.Layer]:
    return [layers.LSTM(784, return_sequences=True), layers.Dropout(0.2), layers.LSTM(186), layers.Dropout(0.2)]


def _cnn() -> list[keras.Layer]:
    body = [layers.Reshape((28, 28, 1))]
    for width, kernel, count in ((64, 7, 1), (128, 3, 2), (256, 3, 2)):
        body += [layers.Conv2D(width, kernel, padding="same", activation="relu") for _ in range(count)]
        body.append(layers.MaxPooling2D(2))
    body.append(layers.Flatten())
    for width in (128, 64):
        body += [layers.Dense(width, activation="relu"), layers.Dropout(0.5)]
    return body


class StepTimes(keras.callbacks.Callback):  # type: ignore[misc]
    """Records when each step ended. Time that fit() takes before the first and after the last belongs to no step."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.ends.append(time.perf_counter())


def step_ms(model: keras.Model, images: np.ndarray, classes: np.ndarray, steps: int) -> float:
    """The mean time of a step from the end of the first to the end of the last, in milliseconds."""
    times = StepTimes()
    count = BATCH_SIZE * (steps + 1)
    model.fit(images[:count], classes[:count], batch_size=BATCH_SIZE, verbose=0, callbacks=[times])
    return (times.ends[-1] - times.ends[0]) / (len(times.ends) - 1) * 1000


def main() -> None:
    threads, file = int(sys.argv[1]), Path(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    with np.load(file) as data:
        images, classes = data["images"].astype(np.float32) / 255, data["classes"].astype(np.int64)
    models: dict[str, keras.Model] = {}
    for line in sys.stdin:
        name, steps = line.split()
        if name not in models:
            models[name] = build(name)
            step_ms(models[name], images, classes, int(steps))  # the first fit() compiles the network
        print(step_ms(models[name], images, classes, int(steps)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
