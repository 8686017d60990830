"""A classifier behind FastAPI, as a user might write it for speed: with raw bytes as bodies, and without batching.

Each worker of uvicorn imports this module, in .venv-fastapi. The environment variable MODEL_FILE names the model.
"""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL_FILE"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/infer")  # type: ignore[untyped-decorator]  # FastAPI is only in .venv-fastapi
async def infer(request: Request) -> Response:
    """Answer an image of 784 bytes with 20 FP32 values: the logits and the probabilities."""
    image = np.frombuffer(await request.body(), np.uint8).reshape(1, 28, 28)
    # The model runs in the event loop, because an image takes only 0.2 ms, and switching to another thread would take
    # longer.
    outputs = session.run(None, {"image": image})
    return Response(np.concatenate(outputs, axis=1).tobytes(), media_type="application/octet-stream")
