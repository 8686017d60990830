"""NVIDIA's Python client against a server: tritonclient_calls.py ADDRESS MODEL IMAGES.npy ANSWERS.npz, in .venv-peers.

Calls what its users call, writes the answers' arrays to ANSWERS.npz and all else as one JSON object to standard output.
"""

import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

IN_FLIGHT = 8


def main(address: str, model: str, images: Path, answers: Path) -> None:
    pixels = np.load(images)
    with grpc.InferenceServerClient(address) as client:
        told: dict[str, Any] = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "unknown_ready": client.is_model_ready("nosuch"),
            "server_metadata": client.get_server_metadata(as_json=True),
            "model_metadata": client.get_model_metadata(model, as_json=True),
            "model_config": client.get_model_config(model, as_json=True),
            "index": client.get_model_repository_index(as_json=True),
        }
        whole = client.infer(model, [tensor(pixels)], request_id="whole")
        told["response"] = whole.get_response(as_json=True) | {"raw_output_contents": None}
        only = client.infer(model, [tensor(pixels)], outputs=[grpc.InferRequestedOutput("probabilities")])
        told["only_probabilities"] = only.as_numpy("logits") is None
        np.savez(
            answers,
            logits=whole.as_numpy("logits"),
            probabilities=only.as_numpy("probabilities"),
            flying=in_flight(client, model, pixels),
            **streamed(client, model, pixels, told),
        )
        told["wrong_shape"] = refusal(client, model, [tensor(pixels[:, :14])])
        told["wrong_datatype"] = refusal(client, model, [tensor(pixels.astype(np.float32))])
        told["unknown_model"] = refusal(client, "nosuch", [tensor(pixels)])
        told["statistics"] = client.get_inference_statistics(model, as_json=True)
    sys.stdout.write(json.dumps(told))


def tensor(array: Any) -> Any:
    made = grpc.InferInput("image", list(array.shape), "FP32" if array.dtype == np.float32 else "UINT8")
    made.set_data_from_numpy(array)
    return made


def in_flight(client: Any, model: str, pixels: Any) -> Any:
    """Logits [n, 10] of single images, all of whose calls are on their way at once."""
    done: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(IN_FLIGHT):
        client.async_infer(
            model,
            [tensor(pixels[number : number + 1])],
            lambda result, error, number=number: done.put((number, result, error)),
        )
    logits = {}
    for _ in range(IN_FLIGHT):
        number, result, error = done.get(timeout=60)
        if error is not None:
            raise error
        logits[number] = result.as_numpy("logits")
    return np.concatenate([logits[number] for number in range(IN_FLIGHT)])


def streamed(client: Any, model: str, pixels: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Answers of a stream to single images, by id; ``told`` gets the order, and what a bad one among them was told."""
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    names = [f"streamed_{number}" for number in range(IN_FLIGHT)]
    for number, name in enumerate(names):
        if number == IN_FLIGHT // 2:
            client.async_stream_infer("nosuch", [tensor(pixels[:1])], request_id="bad")
        image = [tensor(pixels[number : number + 1])]
        client.async_stream_infer(model, image, request_id=name, enable_empty_final_response=True)
    answers = {}
    told["stream"] = []
    for _ in range(IN_FLIGHT + 1):
        result, error = done.get(timeout=60)
        if error is not None:
            told["stream"].append(error.message())
            continue
        response = result.get_response()
        told["stream"].append(response.id)
        answers[response.id] = result.as_numpy("logits")
        assert response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    return answers


def refusal(client: Any, model: str, inputs: list[Any]) -> dict[str, str]:
    try:
        client.infer(model, inputs)
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return {"status": "OK", "message": "it was answered"}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
