"""What SageMaker and Vertex AI expect of a container: the folder of its models, its port, and its HTTP paths.

SageMaker: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and
mms-container-apis.html there. Vertex AI:
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hangtag.serving.server.errors import StartError

SAGEMAKER = "sagemaker"


def platform_settings(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of ServerConfig that follow from the environment variables of a platform's container.

    Args:
        name: A value of --platform: SAGEMAKER, or "vertex".
        environment: The process's environment variables.

    Raises:
        StartError: One of the platform's variables has an invalid value.
    """
    models: dict[str, Any] = {}
    if name == SAGEMAKER:
        paths: tuple[str, ...] = ("/ping", "/invocations")
        variable = "SAGEMAKER_BIND_TO_PORT"
        if environment.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
            paths += ("/models",)
            models = {"models": Path(tempfile.mkdtemp(prefix="hangtag-models-")), "model_control": "explicit"}
        elif (unpacked := Path("/opt/ml/model")).is_dir():
            models = {"models": unpacked}
    else:
        paths = environment.get("AIP_HEALTH_ROUTE") or "/health", environment.get("AIP_PREDICT_ROUTE") or "/predict"
        variable = "AIP_HTTP_PORT"
        if uri := environment.get("AIP_STORAGE_URI", ""):
            models = {"models": uri if "://" in uri else Path(uri)}
    port = environment.get(variable) or "8080"
    if not (port.isascii() and port.isdigit()):
        raise StartError(f"{variable} is {port!r}, which is not a port")
    host = "0.0.0.0"  # noqa: S104 - the platform's network
    return {"host": host, "http_port": int(port), "no_page": True, "platform_paths": paths, **models}
