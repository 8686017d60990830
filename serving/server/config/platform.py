"""What SageMaker and Vertex AI expect of a container: the folder of its models, its port, and its HTTP paths.

SageMaker: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and
mms-container-apis.html there. Vertex AI:
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.serving.server.errors import StartError

SAGEMAKER, VERTEX = "sagemaker", "vertex"
SAGEMAKER_MODELS = Path("/opt/ml/model")
"""Where SageMaker unpacks the model's archive."""


@dataclass(frozen=True)
class Platform:
    """A platform that calls the server over HTTP.

    Attributes:
        name: SAGEMAKER or VERTEX.
        health_path: The path that answers with status 200 when the server is ready.
        infer_path: The path to which the platform sends the calls.
        loads_models: Whether the platform requests loading and unloading, as SageMaker's multi-model endpoints do.
    """

    name: str
    health_path: str
    infer_path: str
    loads_models: bool = False


def platform_settings(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that a platform decides, read from the environment variables that the platform sets in a
    container.

    Args:
        name: SAGEMAKER or VERTEX; for any other name there are no settings.
        environment: The process's environment variables.

    Returns:
        Settings of ServerConfig by name, including ``contract``.

    Raises:
        StartError: One of the platform's variables has an invalid value.

    Example:
        >>> platform_settings("vertex", {"AIP_HTTP_PORT": "9000"})["http_port"]
        9000
    """
    if name == SAGEMAKER:
        several = environment.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true"
        contract = Platform(name, "/ping", "/invocations", several)
        port = _port("SAGEMAKER_BIND_TO_PORT", environment)
        models: dict[str, Any] = {}
        if several:
            models = {"models": Path(tempfile.mkdtemp(prefix="hangtag-models-")), "model_control": "explicit"}
        elif SAGEMAKER_MODELS.is_dir():
            models = {"models": SAGEMAKER_MODELS}
    elif name == VERTEX:
        contract = Platform(name, *_routes(environment))
        port = _port("AIP_HTTP_PORT", environment)
        uri = environment.get("AIP_STORAGE_URI", "")
        models = {"models": uri if "://" in uri else Path(uri)} if uri else {}
    else:
        return {}
    return {"host": "0.0.0.0", "http_port": port, "no_page": True, "contract": contract, **models}  # noqa: S104 - the platform's network


def _routes(environment: Mapping[str, str]) -> tuple[str, str]:
    health = environment.get("AIP_HEALTH_ROUTE") or "/health"
    predict = environment.get("AIP_PREDICT_ROUTE") or "/predict"
    if not (health.startswith("/") and predict.startswith("/")):
        raise StartError(f"AIP_HEALTH_ROUTE ({health!r}) and AIP_PREDICT_ROUTE ({predict!r}) must begin with '/'")
    return health, predict


def _port(variable: str, environment: Mapping[str, str]) -> int:
    text = environment.get(variable) or "8080"
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise StartError(f"{variable} is {text!r}, which is not a port")
    return int(text)
