"""A server's settings: the checks of several settings together, and what follows from the settings."""

import ipaddress
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.settings import MOST_SAMPLES, Settings
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.ports import address_of
from hangtag.settings import problems

SAGEMAKER = "sagemaker"
_LARGEST_BODIES = 16


@dataclass(frozen=True)
class ServerConfig(Settings):
    """The settings of one server, including those that operators cannot set.

    Raises:
        StartError: A value is not valid for its setting, or two values contradict each other.

    Example:
        ServerConfig(models=Path("models"), port=0, max_batch_size=32)
    """

    limits: Limits = field(default_factory=Limits)
    platform_paths: tuple[str, ...] = ()
    """The platform's HTTP paths for health checks, for calls and, on SageMaker, for loading models. Operators cannot
    set the paths; see `platform_settings`."""
    store: str = field(default="", repr=False)
    """The store's URL from --models; ``models`` is then the folder of the store's local copy. The URL may contain a
    password, so the settings' repr does not show the URL."""
    behind: Path | None = None
    """The folder of the Unix sockets on which a server behind Envoy listens instead of its ports. No option sets this
    folder. Only the server's own user may have access to it."""

    def __post_init__(self) -> None:
        for declared, problem in problems(self):
            raise StartError(f"{declared.name}: {problem}")
        for limit in self.model_max_batch_size:
            match limit:
                case (str(name), int(number)) if name and type(number) is int and 0 <= number <= MOST_SAMPLES:
                    continue
            raise StartError(
                f"model_max_batch_size: {limit!r} must be a model's name and a number from 0 to {MOST_SAMPLES}"
            )
        if self.max_queue_size < self.largest_batch_size:
            raise StartError(
                f"--max-queue-size ({self.max_queue_size}) is below --max-batch-size ({self.largest_batch_size}): the "
                "queue could never hold a full batch. Raise --max-queue-size or lower the batch size."
            )
        if 0 < self.max_http_bodies_mib < self.max_message_mib:
            raise StartError(
                f"--max-http-bodies-mib ({self.max_http_bodies_mib}) is below --max-message-mib "
                f"({self.max_message_mib}): the largest request could never come over HTTP. Raise "
                "--max-http-bodies-mib or lower --max-message-mib."
            )
        if self.load_model and self.model_control != "explicit" and not self.max_loaded_mib:
            raise StartError(
                "--load-model needs --model-control explicit or --max-loaded-mib; without them, every model is loaded"
            )
        if self.max_loaded_mib and self.model_control == "explicit":
            raise StartError(
                "--max-loaded-mib loads models at their first call, --model-control explicit loads them on request: "
                "use only one of these options"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartError("TLS needs a certificate and its key: give --tls-cert and --tls-key together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")

    @property
    def instance_count(self) -> int:
        """The number of instances. The default on several CPUs is 2: one computes while the other's batch fills."""
        return self.instances or min(2, usable_cpus())

    @property
    def http_bodies_bytes(self) -> int:
        """``max_http_bodies_mib`` in bytes. If the setting is 0, there is room for 16 messages of the largest size."""
        return (self.max_http_bodies_mib or _LARGEST_BODIES * self.max_message_mib) << 20

    @property
    def largest_batch_size(self) -> int:
        """The largest ``max_batch_size`` of any model."""
        return max([self.max_batch_size, *(limit for _, limit in self.model_max_batch_size)])

    def max_batch_size_of(self, model: str) -> int:
        """The maximum number of this model's samples in one batch, if its requests are batched at all."""
        return dict(self.model_max_batch_size).get(model) or self.max_batch_size

    def batching_override(self, model: str) -> bool | None:
        """Whether the operator allows batching this model's requests; None if the model's file decides."""
        limit = dict(self.model_max_batch_size).get(model)
        return None if limit is None else limit > 0

    def address(self, port: int) -> str:
        return address_of(self.host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        host = (self.published_host or self.host).strip("[]")  # Docker writes IPv6 addresses in brackets
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_exposed(self) -> bool:
        """Whether Envoy must listen in front: other machines can connect, or connections must be encrypted."""
        return self.tls_cert is not None or not self.is_loopback

    @property
    def dangers(self) -> tuple[str, ...]:
        """What other machines could do to a server with these settings. Empty if it listens only on loopback."""
        if self.is_loopback:
            return ()
        callers = () if self.token_file or self.tls_client_ca else ("anybody may call (--token-file prevents this)",)
        readers = () if self.tls_cert else ("anybody can read all traffic (--tls-cert and --tls-key prevent this)",)
        return callers + readers


def platform_settings(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that follow from the environment variables of a platform's container. ``name`` is a value of
    --platform. Raises StartError if one of the platform's variables has an invalid value.

    SageMaker: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and
    mms-container-apis.html there. Vertex AI:
    https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements.
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
