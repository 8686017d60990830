"""Calls a server with NVIDIA's Python clients for HTTP, with threads and with asyncio, and for gRPC with asyncio.

Run in .venv-peers: ``python tritonclient_http_calls.py HTTP GRPC MODEL IMAGES.npy OUTPUTS.npz``. IMAGES is UINT8
[n, 28, 28], n at least 8. Output tensors go to OUTPUTS.npz, everything else as one JSON object to standard output.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

IN_FLIGHT = 8


def main(http: str, grpc: str, model: str, images: Path, outputs: Path) -> None:
    pixels = np.load(images)
    tensors: dict[str, Any] = {}
    report = with_threads(http, model, pixels, tensors)
    report |= asyncio.run(with_asyncio(http, grpc, model, pixels, tensors))
    np.savez(outputs, **tensors)
    json.dump(report, sys.stdout)


def with_threads(http: str, model: str, pixels: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    with tritonclient.http.InferenceServerClient(http, concurrency=IN_FLIGHT) as client:
        report = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "unknown_ready": client.is_model_ready("nosuch"),
            "server_metadata": client.get_server_metadata(),
            "model_metadata": client.get_model_metadata(model),
            "model_config": client.get_model_config(model),
            "index": client.get_model_repository_index(),
            "statistics": client.get_inference_statistics(model),
        }
        for name, as_binary in (("binary", True), ("json", False)):
            image = tensor(tritonclient.http, pixels, binary_data=as_binary)
            wanted = [tritonclient.http.InferRequestedOutput("logits", binary_data=as_binary)]
            tensors[name] = client.infer(model, [image], outputs=wanted, request_id="own").as_numpy("logits")
        image = tensor(tritonclient.http, pixels)
        whole = client.infer(model, [image], request_id="own")
        report["response"] = whole.get_response()
        tensors["by_default"] = whole.as_numpy("logits")
        for encoding in ("gzip", "deflate"):
            compressed = client.infer(
                model, [image], request_compression_algorithm=encoding, response_compression_algorithm=encoding
            )
            tensors[encoding] = compressed.as_numpy("logits")
        pending = [
            client.async_infer(model, [tensor(tritonclient.http, pixels[number : number + 1])])
            for number in range(IN_FLIGHT)
        ]
        tensors["concurrent"] = np.concatenate([each.get_result().as_numpy("logits") for each in pending])
        report["wrong_shape"] = refusal(client, model, tensor(tritonclient.http, pixels[:, :14]))
        report["unknown_model"] = refusal(client, "nosuch", image)
        try:
            client.unload_model(model)
        except InferenceServerException as error:
            report["unload"] = {"status": error.status(), "message": error.message()}
    return report


async def with_asyncio(http: str, grpc: str, model: str, pixels: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    report = {}
    for name, module, address in (
        ("http_aio", tritonclient.http.aio, http),
        ("grpc_aio", tritonclient.grpc.aio, grpc),
    ):
        async with module.InferenceServerClient(address) as client:
            report[f"{name}_ready"] = [await client.is_server_ready(), await client.is_model_ready(model)]
            answers = await asyncio.gather(
                *(client.infer(model, [tensor(module, pixels[number : number + 1])]) for number in range(IN_FLIGHT))
            )
            tensors[name] = np.concatenate([answer.as_numpy("logits") for answer in answers])
    return report


def tensor(module: Any, array: Any, **options: bool) -> Any:
    image = module.InferInput("image", list(array.shape), "UINT8")
    image.set_data_from_numpy(array, **options)
    return image


def refusal(client: Any, model: str, image: Any) -> dict[str, str]:
    """Returns the status and message of the error that this call must get."""
    try:
        client.infer(model, [image])
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return {"status": "200", "message": "the server accepted the call"}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
