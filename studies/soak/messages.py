"""Inferences without hangtag's client: messages of the protocol, and JSON, as other clients send them."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc
import httpx2
import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.client import ClientError
from studies.soak.answers import WrongAnswerError
from studies.soak.situation import Situation

_MEMBER = "hangtag-model"
_NONE: Mapping[str, str] = {}
Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]


async def typed(at: Situation, model: str, first: int, metadata: Mapping[str, str] = _NONE) -> tuple[Outputs, str]:
    """An inference with typed contents. Returns its outputs, and the member of a route that answered."""
    contents = pb.InferTensorContents(uint_contents=at.answers.images[first].ravel().tolist())
    shape = (1, 28, 28)
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=shape, contents=contents)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor])
    call = at.connections.stub.ModelInfer(request, timeout=15, metadata=tuple(metadata.items()))
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        raise ClientError(error.code(), error.details() or "") from error
    arrays = zip(answer.outputs, answer.raw_output_contents, strict=True)
    outputs = {output.name: tensors.from_raw(output.datatype, output.shape, raw) for output, raw in arrays}
    return outputs, str(dict(await call.trailing_metadata()).get(_MEMBER, ""))


async def in_json(at: Situation, model: str, first: int, headers: Mapping[str, str] = _NONE) -> tuple[Outputs, str]:
    """The same over HTTP in JSON."""
    data = at.answers.images[first : first + 1]
    tensor = {"name": "image", "datatype": "UINT8", "shape": data.shape, "data": data.ravel().tolist()}
    body = {"inputs": [tensor]}
    response = await at.connections.http.post(f"/v2/models/{model}/infer", json=body, headers=headers)
    raise_for(response)
    outputs = response.json()["outputs"]
    arrays = {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in outputs}
    return arrays, response.headers.get(_MEMBER, "")


def raise_for(response: httpx2.Response) -> None:
    """Raise the error of a server that does not take requests; see docs/http.md."""
    if response.status_code == 503:
        raise ClientError(grpc.StatusCode.UNAVAILABLE, response.text)
    if response.status_code != 200:
        raise WrongAnswerError(f"HTTP {response.status_code}: {response.text[:200]}")
