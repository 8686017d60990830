"""Calls a server with NVIDIA's Python clients as their users do: over gRPC and HTTP, with threads and asyncio.

Run in .venv-peers: ``python tritonclient_calls.py GRPC HTTP MODEL IMAGES.npy OUTPUTS.npz``. IMAGES is UINT8
[n, 28, 28], n at least 8. Output tensors go to OUTPUTS.npz, everything else as one JSON object to standard output.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

IN_FLIGHT = 8


def main(grpc: str, http: str, model: str, images: Path, outputs: Path) -> None:
    pixels = np.load(images)
    tensors: dict[str, Any] = {}
    report = {
        "grpc": over_grpc(grpc, model, pixels, tensors),
        "http": over_http(http, model, pixels, tensors),
        "aio": asyncio.run(with_asyncio(grpc, http, model, pixels, tensors)),
    }
    np.savez(outputs, **tensors)
    json.dump(report, sys.stdout)


def description(client: Any, model: str, **options: bool) -> dict[str, Any]:
    """What a client reports about the server and a model."""
    return {
        "ready": [
            client.is_server_live(),
            client.is_server_ready(),
            client.is_model_ready(model),
            client.is_model_ready("nosuch"),
        ],
        "server_metadata": client.get_server_metadata(**options),
        "model_metadata": client.get_model_metadata(model, **options),
        "model_config": client.get_model_config(model, **options),
        "index": client.get_model_repository_index(**options),
        "statistics": client.get_inference_statistics(model, **options),
    }


def over_grpc(address: str, model: str, pixels: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    with tritonclient.grpc.InferenceServerClient(address) as client:
        report = description(client, model, as_json=True)
        whole = client.infer(model, [grpc_tensor(pixels)], request_id="whole")
        report["response_id"] = whole.get_response().id
        only = client.infer(
            model, [grpc_tensor(pixels)], outputs=[tritonclient.grpc.InferRequestedOutput("probabilities")]
        )
        report["only_probabilities"] = only.as_numpy("logits") is None
        tensors["grpc"] = whole.as_numpy("logits")
        tensors["probabilities"] = only.as_numpy("probabilities")
        tensors["grpc_concurrent"] = infer_concurrently(client, model, pixels)
        report["stream"], tensors["grpc_streamed"] = infer_in_stream(client, model, pixels)
        return report


def over_http(address: str, model: str, pixels: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    with tritonclient.http.InferenceServerClient(address, concurrency=IN_FLIGHT) as client:
        report = description(client, model)
        for name, as_binary in (("http_binary", True), ("http_json", False)):
            image = http_tensor(pixels, binary_data=as_binary)
            wanted = [tritonclient.http.InferRequestedOutput("logits", binary_data=as_binary)]
            tensors[name] = client.infer(model, [image], outputs=wanted, request_id="own").as_numpy("logits")
        image = http_tensor(pixels)
        whole = client.infer(model, [image], request_id="own")
        report["response"] = whole.get_response()
        tensors["http_by_default"] = whole.as_numpy("logits")
        for encoding in ("gzip", "deflate"):
            compressed = client.infer(
                model, [image], request_compression_algorithm=encoding, response_compression_algorithm=encoding
            )
            tensors[f"http_{encoding}"] = compressed.as_numpy("logits")
        pending = [client.async_infer(model, [http_tensor(pixels[number : number + 1])]) for number in range(IN_FLIGHT)]
        tensors["http_concurrent"] = np.concatenate([each.get_result().as_numpy("logits") for each in pending])
        return report


async def with_asyncio(grpc: str, http: str, model: str, pixels: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    report = {}
    for name, module, address, make in (
        ("grpc", tritonclient.grpc.aio, grpc, grpc_tensor),
        ("http", tritonclient.http.aio, http, http_tensor),
    ):
        async with module.InferenceServerClient(address) as client:
            report[name] = [await client.is_server_ready(), await client.is_model_ready(model)]
            answers = await asyncio.gather(
                *(client.infer(model, [make(pixels[number : number + 1])]) for number in range(IN_FLIGHT))
            )
            tensors[f"{name}_aio"] = np.concatenate([answer.as_numpy("logits") for answer in answers])
    return report


def grpc_tensor(array: Any) -> Any:
    return filled(tritonclient.grpc, array)


def http_tensor(array: Any, **options: bool) -> Any:
    return filled(tritonclient.http, array, **options)


def filled(module: Any, array: Any, **options: bool) -> Any:
    image = module.InferInput("image", list(array.shape), "UINT8")
    image.set_data_from_numpy(array, **options)
    return image


def infer_concurrently(client: Any, model: str, pixels: Any) -> Any:
    """Sends IN_FLIGHT calls with one image each at the same time, and returns the logits [IN_FLIGHT, 10]."""
    replies: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(IN_FLIGHT):
        client.async_infer(
            model,
            [grpc_tensor(pixels[number : number + 1])],
            lambda result, error, number=number: replies.put((number, result, error)),
        )
    logits = {}
    for _ in range(IN_FLIGHT):
        number, result, error = replies.get(timeout=60)
        if error is not None:
            raise error
        logits[number] = result.as_numpy("logits")
    return np.concatenate([logits[number] for number in range(IN_FLIGHT)])


def infer_in_stream(client: Any, model: str, pixels: Any) -> tuple[list[str], Any]:
    """Sends IN_FLIGHT images and, between them, a request for an unknown model through one stream.

    Returns:
        For each response, in the order of arrival, its id, or its message if it is an error. The logits [IN_FLIGHT, 10]
        are in the same order.
    """
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    for number in range(IN_FLIGHT):
        if number == IN_FLIGHT // 2:
            client.async_stream_infer("nosuch", [grpc_tensor(pixels[:1])], request_id="bad")
        image = [grpc_tensor(pixels[number : number + 1])]
        client.async_stream_infer(model, image, request_id=str(number), enable_empty_final_response=True)
    order: list[str] = []
    logits = []
    for _ in range(IN_FLIGHT + 1):
        result, error = replies.get(timeout=60)
        if error is not None:
            order.append(error.message())
            continue
        response = result.get_response()
        order.append(response.id)
        logits.append(result.as_numpy("logits"))
        assert response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    return order, np.concatenate(logits)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
