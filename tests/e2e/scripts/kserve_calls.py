"""Calls a server with KServe's clients for REST and gRPC.

Run in .venv-peers: ``python kserve_calls.py GRPC HTTP MODEL IMAGES.npy OUTPUTS.npz``. IMAGES is UINT8 [n, 28, 28].
Output tensors go to OUTPUTS.npz, everything else as one JSON object to standard output.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(grpc: str, http: str, model: str, images: Path, outputs: Path) -> None:
    pixels = np.load(images)
    tensors: dict[str, Any] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as rest:
        url = f"http://{http}"
        report: dict[str, Any] = {
            "live": await rest.is_server_live(url),
            "ready": await rest.is_server_ready(url),
            "model_ready": await rest.is_model_ready(url, model),
            "unknown_ready": await rest.is_model_ready(url, "nosuch"),
        }
        for name, as_binary in (("binary", True), ("json", False)):
            answer = await rest.infer(url, request(model, pixels, as_binary), model_name=model)
            report[name] = [answer.model_name, answer.id]  # the answer's version is not readable with KServe's client
            tensors[f"rest_{name}"] = logits(answer)
        try:
            await rest.infer(url, request("nosuch", pixels, False), model_name="nosuch")
        except httpx.HTTPStatusError as error:
            report["unknown_model"] = [error.response.status_code, str(error)]
    async with InferenceGRPCClient(grpc) as client:
        report["grpc_ready"] = [await client.is_server_ready(), await client.is_model_ready(model)]
        tensors["grpc"] = logits(await client.infer(request(model, pixels, True)))
    np.savez(outputs, **tensors)
    json.dump(report, sys.stdout)


def request(model: str, pixels: Any, as_binary: bool) -> Any:
    image = InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels, binary_data=as_binary)
    return InferRequest(model, [image], request_id="own")


def logits(answer: Any) -> Any:
    (output,) = [each for each in answer.outputs if each.name == "logits"]
    return output.as_numpy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])))
