"""The study's networks in Keras, as the study trained them: `model.fit` at batch 32 with Adam's defaults.

Runs in an environment of its own (.venv-keras), under measure.py: each line on stdin names a model and a number of
steps, each line on stdout is the milliseconds that a step took.
"""

import sys
import time

import keras
import numpy as np
from keras import layers


def build(name: str) -> keras.Model:
    if name == "lstm":
        body = [layers.LSTM(186), layers.Dropout(0.2)]
    elif name == "lstm2":
        body = [layers.LSTM(784, return_sequences=True), layers.Dropout(0.2), layers.LSTM(186), layers.Dropout(0.2)]
    else:
        body = [layers.Reshape((28, 28, 1))]
        for width, kernel, count in ((64, 7, 1), (128, 3, 2), (256, 3, 2)):
            body += [layers.Conv2D(width, kernel, padding="same", activation="relu") for _ in range(count)]
            body.append(layers.MaxPooling2D(2))
        body.append(layers.Flatten())
        for width in (128, 64):
            body += [layers.Dense(width, activation="relu"), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((28, 28)), *body, layers.Dense(10, activation="softmax")])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    models: dict[str, keras.Model] = {}
    for line in sys.stdin:
        name, steps = line.split()[0], int(line.split()[1])
        images = np.random.default_rng(0).random((32 * steps, 28, 28), dtype=np.float32)
        classes = np.random.default_rng(1).integers(0, 10, 32 * steps)
        if name not in models:
            models[name] = build(name)
            models[name].fit(images, classes, batch_size=32, verbose=0)
        started = time.perf_counter()
        models[name].fit(images, classes, batch_size=32, verbose=0)
        print((time.perf_counter() - started) / steps * 1000, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
