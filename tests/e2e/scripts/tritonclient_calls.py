"""Calls a server with NVIDIA's Python client, tritonclient, the way its users do.

Run in .venv-peers: ``python tritonclient_calls.py ADDRESS MODEL IMAGES.npy OUTPUTS.npz``. IMAGES is UINT8 [n, 28, 28],
n at least 8. Output tensors go to OUTPUTS.npz, everything else as one JSON object to standard output.
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


def main(address: str, model: str, images: Path, outputs: Path) -> None:
    pixels = np.load(images)
    with grpc.InferenceServerClient(address) as client:
        report: dict[str, Any] = {
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
        report["response"] = whole.get_response(as_json=True) | {"raw_output_contents": None}
        only = client.infer(model, [tensor(pixels)], outputs=[grpc.InferRequestedOutput("probabilities")])
        report["only_probabilities"] = only.as_numpy("logits") is None
        concurrent_logits = infer_concurrently(client, model, pixels)
        report["stream"], streamed_logits = infer_in_stream(client, model, pixels)
        np.savez(
            outputs,
            logits=whole.as_numpy("logits"),
            probabilities=only.as_numpy("probabilities"),
            concurrent=concurrent_logits,
            **streamed_logits,
        )
        report["wrong_shape"] = refusal(client, model, [tensor(pixels[:, :14])])
        report["wrong_datatype"] = refusal(client, model, [tensor(pixels.astype(np.float32))])
        report["unknown_model"] = refusal(client, "nosuch", [tensor(pixels)])
        report["statistics"] = client.get_inference_statistics(model, as_json=True)
    json.dump(report, sys.stdout)


def tensor(array: Any) -> Any:
    image = grpc.InferInput("image", list(array.shape), "FP32" if array.dtype == np.float32 else "UINT8")
    image.set_data_from_numpy(array)
    return image


def infer_concurrently(client: Any, model: str, pixels: Any) -> Any:
    """Returns logits [IN_FLIGHT, 10] of calls with one image each, all in flight at the same time."""
    replies: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(IN_FLIGHT):
        client.async_infer(
            model,
            [tensor(pixels[number : number + 1])],
            lambda result, error, number=number: replies.put((number, result, error)),
        )
    logits = {}
    for _ in range(IN_FLIGHT):
        number, result, error = replies.get(timeout=60)
        if error is not None:
            raise error
        logits[number] = result.as_numpy("logits")
    return np.concatenate([logits[number] for number in range(IN_FLIGHT)])


def infer_in_stream(client: Any, model: str, pixels: Any) -> tuple[list[str], dict[str, Any]]:
    """Sends IN_FLIGHT images through one stream, and a request for an unknown model in the middle of them.

    Returns:
        The id of each response in the order of arrival (for the refused request the error's message), and the logits
        of each response by its id.
    """
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    for number in range(IN_FLIGHT):
        if number == IN_FLIGHT // 2:
            client.async_stream_infer("nosuch", [tensor(pixels[:1])], request_id="bad")
        image = [tensor(pixels[number : number + 1])]
        client.async_stream_infer(model, image, request_id=f"streamed_{number}", enable_empty_final_response=True)
    order: list[str] = []
    logits = {}
    for _ in range(IN_FLIGHT + 1):
        result, error = replies.get(timeout=60)
        if error is not None:
            order.append(error.message())
            continue
        response = result.get_response()
        order.append(response.id)
        logits[response.id] = result.as_numpy("logits")
        assert response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    return order, logits


def refusal(client: Any, model: str, inputs: list[Any]) -> dict[str, str]:
    """Returns the status and message of the error that this call must get."""
    try:
        client.infer(model, inputs)
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return {"status": "OK", "message": "the server accepted the call"}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
