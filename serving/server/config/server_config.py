"""A server's settings. Each setting is declared once, with its type, default, help text and check."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.ports import address_of
from hangtag.settings import problems, setting

MOST_SECONDS = 2_000_000
"""The most seconds of any duration, because gRPC's core counts milliseconds in 31 bits."""
MOST_SAMPLES = 4096
"""The largest batch size that any setting may have."""
ModelLimit = tuple[str, int]
"""A model's name, and the most samples of this model in one batch."""
OFF = -1
"""The port number that turns a port off."""
_LARGEST_BODIES = 16


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server. The help text of a setting says what the setting is for.

    Raises:
        StartError: A value is not valid for its setting, or two values contradict each other.

    Example:
        ServerConfig(models=Path("models"), port=0, max_batch_size=32)
    """

    models: Path = setting(
        Path("models"),
        "The model repository, <models>/<name>/<version>/model.onnx, or its URL (s3://, gs://, az://, https:// or "
        "oci://).",
        folder=True,
        envvar="HANGTAG_MODELS",
    )
    model_cache: Path | None = setting(
        None,
        "The folder for local copies of --models URLs.  [default: hangtag/models in the user's cache folder]",
        folder=True,
    )
    model_cache_mib: int = setting(
        10_240, "The size limit of the local copy of each --models URL, in MiB.", between=(1, None)
    )
    model_control: str = setting(
        "none",
        "none: serve every model that the repository has at startup. poll: also apply later changes. explicit: load "
        "and unload models on request.",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = setting(
        (),
        "With --model-control explicit, load this model at startup ('*' loads all). With --max-loaded-mib, keep this "
        "model loaded. Repeatable.",
    )
    poll_seconds: float = setting(
        15.0,
        "With --model-control poll, look for changes every this many seconds.",
        between=(0.1, MOST_SECONDS),
    )
    max_loaded_mib: int = setting(
        0,
        "Load each model at its first call. Unload the least recently used models if the loaded files exceed this "
        "many MiB. 0: load all models at startup.",
        between=(0, 1_048_576),
    )
    num_versions: int = setting(
        1,
        "How many versions of each model clients can call by number: the promoted one, and the latest ones. 0: all.",
        between=(0, None),
    )
    require_proof: bool = setting(
        False, "Serve only files that have passed the gate of 'hangtag export' and have not changed since."
    )
    trial_load_seconds: float = setting(
        0.0,
        "Load each version in a child process first, and refuse a file that takes longer than this or crashes the "
        "process. 0: no child process, so a file may crash the server.",
        between=(0, MOST_SECONDS),
    )
    trial_load_mib: int = setting(
        4096,
        "The most memory that the child process of --trial-load-seconds may allocate, in MiB.",
        between=(512, 1_048_576),
    )
    host: str = setting(
        "127.0.0.1",
        "The address to listen on. Beyond loopback, use TLS, and tokens or --tls-client-ca. Beyond loopback or with "
        "TLS, the server runs behind Envoy (the extra network).",
    )
    published_host: str = setting(
        "",
        "The address at which clients reach the server, if it is not --host, as in Docker. If this address is "
        "loopback, the server trusts everybody who can connect.",
    )
    port: int = setting(8001, "The gRPC port. 0: a free port, which the log shows.", between=(0, 65535))
    http_port: int = setting(
        8000,
        "The HTTP port for the Open Inference Protocol, image classification and /metrics. 0: a free port. -1: none.",
        between=(OFF, 65535),
    )
    allowed_host: tuple[str, ...] = setting(
        (),
        "A host name that clients use for the HTTP port, such as models.example. Other names, except localhost, are "
        "refused. Without tokens, only requests to an allowed name or an address may load models. Repeatable.",
    )
    no_page: bool = setting(False, "Do not serve the page at / on the HTTP port, on which people try the models.")
    platform: str = setting(
        "none",
        "Take the models, the address and the HTTP port from the variables of Amazon SageMaker or Vertex AI, and "
        "answer on the platform's paths.",
        choices=("none", "sagemaker", "vertex"),
    )
    platform_model: str = setting("", "The model that answers the platform's calls.  [default: the only served model]")
    metrics_port: int = setting(
        8002,
        "The HTTP port for /metrics (Prometheus) and /v2/health/ready. 0: a free port. -1: none.",
        between=(OFF, 65535),
    )
    otlp_endpoint: str = setting(
        "", "Send OpenTelemetry traces to this collector (OTLP over gRPC, http://HOST:4317). Needs the extra otel."
    )
    provider: str = setting(
        "auto",
        "ONNX Runtime's execution provider. auto: CUDA if available, else the CPU. cuda, tensorrt: that provider, or "
        "an error.",
        choices=("auto", "cpu", "cuda", "tensorrt"),
    )
    gpu_device_id: int = setting(0, "The device number of the GPU to use.", between=(0, None))
    gpu_mem_limit_mib: int = setting(
        0,
        "The most GPU memory that a model's arena may take, including the weights, in MiB. 0: no limit.",
        between=(0, None),
    )
    cuda_graphs: str = setting(
        "off",
        "Compute batches with CUDA graphs. on: for each model that can be captured. auto: only if graphs are measured "
        "to be faster.",
        choices=("off", "auto", "on"),
    )
    workers: int = setting(
        1,
        "The number of processes that share the port. Use several if Python's interpreter lock is the limit and "
        "clients open several connections.",
        between=(1, 256),
    )
    instances: int = setting(
        0,
        "How many batches of one model may be computed at once. 0: two on at least two CPUs, else one.",
        between=(0, 64),
    )
    intra_op_threads: int = setting(
        0,
        "ONNX Runtime's threads in each instance. 0: the usable CPUs / (instances x workers), but all threads of a "
        "worker for a batch that is computed alone, if this is faster.",
        between=(0, 256),
    )
    max_batch_size: int = setting(64, "The most samples in a batch, and in a request.", between=(1, MOST_SAMPLES))
    model_max_batch_size: tuple[ModelLimit, ...] = setting(
        (),
        "Set --max-batch-size for one model, even if its file forbids batches. 0: forbid batches. Repeatable.",
        metavar="NAME=N",
    )
    max_queue_size: int = setting(
        256,
        "The most requests that may wait for a model. Further requests get RESOURCE_EXHAUSTED at once.",
        between=(1, 4096),
    )
    max_queue_delay_microseconds: int = setting(
        0,
        "How long the oldest waiting request may wait for others to fill its batch.",
        between=(0, 10_000_000),
    )
    tls_cert: Path | None = setting(
        None,
        "Serve TLS with this certificate (PEM, with its chain). A changed file is reloaded. Needs --tls-key.",
    )
    tls_key: Path | None = setting(
        None, "The private key of --tls-cert (PEM, not encrypted). A changed file is reloaded."
    )
    tls_client_ca: Path | None = setting(
        None, "Use mutual TLS: every client needs a certificate signed by an authority in this PEM file."
    )
    token_file: Path | None = setting(
        None,
        "Require a bearer token of this file (one per line) for every call except health checks. A changed file is "
        "reloaded.",
    )
    max_message_mib: int = setting(16, "The size limit of received and sent messages, in MiB.", between=(1, 1024))
    max_http_bodies_mib: int = setting(
        0,
        "The most memory for the bodies of a process's HTTP requests in flight, in MiB. A further request gets 429. "
        "0: 16 times --max-message-mib.",
        between=(0, 1_048_576),
    )
    max_concurrent_streams: int = setting(
        100,
        "How many calls a connection may have in flight. Further calls wait in the client until their deadlines.",
        between=(1, 100_000),
    )
    max_connections: int = setting(
        1024,
        "The most open connections on each port of an exposed server. A further connection is closed at once.",
        between=(1, 1_000_000),
    )
    connection_idle_seconds: float = setting(
        900.0,
        "Close a connection that has had no call for this long. Over gRPC, this applies only to an exposed server.",
        between=(1, MOST_SECONDS),
    )
    connection_age_seconds: float = setting(
        0.0,
        "After this time, an exposed server makes its clients connect again, so that load-balancing clients find new "
        "replicas. A stream that is still open 20 s later is ended. 0: never.",
        between=(0, MOST_SECONDS),
    )
    keepalive_seconds: float = setting(
        60.0,
        "Ping a client that has been silent for this long, and close its connection if no answer comes within 20 s. "
        "Only for an exposed server, or --transport native.",
        between=(1, MOST_SECONDS),
    )
    transport: str = setting(
        "auto",
        "The gRPC library. native: pygrpc-native (the extra native), which is faster. grpc: grpcio. auto: native if "
        "it is installed, else grpc.",
        choices=("auto", "native", "grpc"),
    )
    drain_seconds: float = setting(
        20.0, "How long the server waits for calls in flight after SIGTERM.", between=(0, MOST_SECONDS)
    )
    limits: Limits = field(default_factory=Limits)
    """Operators cannot set the limits; see `Limits`."""
    platform_paths: tuple[str, ...] = ()
    """The HTTP paths at which the platform checks health, sends calls, and for SageMaker's multi-model endpoints loads
    models. Operators cannot set the paths; see `platform_settings`."""
    store: str = field(default="", repr=False)
    """The store's URL from --models; ``models`` is then the folder of the store's local copy. The URL may contain a
    password, so the settings' repr does not show the URL."""
    behind: Path | None = None
    """The folder of the Unix sockets on which a server behind Envoy listens instead of its ports. Operators cannot set
    this folder. Only this user may have access to the folder."""

    def __post_init__(self) -> None:
        for declared, problem in problems(self):
            raise StartError(f"{declared.name}: {problem}")
        for limit in self.model_max_batch_size:
            if not _is_limit(limit):
                raise StartError(
                    f"model_max_batch_size: {limit!r} is not a model's name and a number from 0 to {MOST_SAMPLES}"
                )
        if self.max_queue_size < self.largest_batch_size:
            raise StartError(
                f"--max-queue-size ({self.max_queue_size}) is below --max-batch-size ({self.largest_batch_size}): a "
                "full batch could never gather. Raise --max-queue-size or lower the batch size."
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
        """The number of instances. The default is two instances on at least two CPUs: one computes while the other
        gathers a batch."""
        return self.instances or min(2, usable_cpus())

    @property
    def connections(self) -> int:
        """How many clients may be connected to a process, over gRPC and HTTP together."""
        return self.max_connections * (1 if self.http_port == OFF else 2)

    @property
    def http_bodies_bytes(self) -> int:
        """``max_http_bodies_mib`` in bytes. If ``max_http_bodies_mib`` is 0, there is room for 16 messages of the
        largest size."""
        return (self.max_http_bodies_mib or _LARGEST_BODIES * self.max_message_mib) << 20

    @property
    def largest_batch_size(self) -> int:
        """The largest ``max_batch_size`` of any model."""
        return max([self.max_batch_size, *(limit for _, limit in self.model_max_batch_size)])

    def max_batch_size_of(self, model: str) -> int:
        """The most samples of this model in one batch. The number has no effect if the model's requests are never
        batched."""
        return dict(self.model_max_batch_size).get(model) or self.max_batch_size

    def batching_override(self, model: str) -> bool | None:
        """Whether the operator allows batching this model's requests; None if the model's file decides."""
        limit = dict(self.model_max_batch_size).get(model)
        return None if limit is None else limit > 0

    def address(self, port: int) -> str:
        """Return host:port, with brackets around an IPv6 host."""
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
        """Whether an Envoy must listen in front of the server, because other machines can connect, or connections must
        be encrypted."""
        return self.tls_cert is not None or not self.is_loopback

    @property
    def dangers(self) -> tuple[str, ...]:
        """What other machines could do to a server with these settings. Empty if the server listens only on
        loopback."""
        if self.is_loopback:
            return ()
        callers = () if self.token_file or self.tls_client_ca else ("anybody may call (set --token-file)",)
        readers = () if self.tls_cert else ("anybody on the way can read all data (set --tls-cert and --tls-key)",)
        return callers + readers


def _is_limit(limit: ModelLimit) -> bool:
    match limit:
        case (str(name), int(number)):
            return bool(name) and type(number) is int and 0 <= number <= MOST_SAMPLES
    return False
