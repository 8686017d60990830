"""The settings of a server. Each setting is declared once, with its type, default, help text and range."""

from dataclasses import dataclass
from pathlib import Path

from hangtag.settings import setting

MOST_SECONDS = 2_000_000
"""The upper limit in seconds for any duration, because gRPC's core counts milliseconds in 31 bits."""
MOST_SAMPLES = 4096
"""The largest batch size that a setting accepts."""
ModelLimit = tuple[str, int]
"""A model's name, and the maximum number of samples in one batch of this model."""
OFF = -1
"""The port number that turns a port off."""


@dataclass(frozen=True)
class Settings:
    """The settings that an operator may change, each with its help text."""

    models: Path = setting(
        Path("models"),
        "The model repository, <models>/<name>/<version>/model.onnx, or its URL (s3://, gs://, az:// or https://).",
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
        "The seconds between checks for changes with --model-control poll.",
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
        "How many versions of each model are served: the promoted version, then the latest. 0: all.",
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
        "The address to listen on. If other machines can reach it, use TLS, and tokens or --tls-client-ca. For such an "
        "address or with TLS, the server runs behind Envoy (pip extra 'network').",
    )
    published_host: str = setting(
        "",
        "The address at which clients reach the server, if --host is another address, as in Docker. If this address is "
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
        "refused. Without tokens, only requests to an allowed name or address may load models. Repeatable.",
    )
    no_page: bool = setting(False, "Do not serve the HTTP port's page (/), on which people try the models.")
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
        "ONNX Runtime's execution provider. auto uses CUDA if it is available, otherwise the CPU. cuda and tensorrt "
        "fail if they are not available.",
        choices=("auto", "cpu", "cuda", "tensorrt"),
    )
    gpu_device_id: int = setting(0, "The device number of the GPU to use.", between=(0, None))
    gpu_mem_limit_mib: int = setting(
        0,
        "The most GPU memory, in MiB, that ONNX Runtime's arena may take for a model and its weights. 0: no limit.",
        between=(0, None),
    )
    cuda_graphs: str = setting(
        "off",
        "Compute batches with CUDA graphs. on: for each model that can be captured. auto: only if measurements show "
        "a gain.",
        choices=("off", "auto", "on"),
    )
    workers: int = setting(
        1,
        "The number of processes that share the port. Use several processes if Python's interpreter lock is the limit "
        "and clients open several connections.",
        between=(1, 256),
    )
    instances: int = setting(
        0,
        "How many batches of one model may be computed at once. 0: two on several CPUs, otherwise one.",
        between=(0, 64),
    )
    intra_op_threads: int = setting(
        0,
        "ONNX Runtime's threads in each instance. 0: the usable CPUs / (instances x workers). A worker that computes "
        "only one batch gives it all threads, if that is faster.",
        between=(0, 256),
    )
    max_batch_size: int = setting(64, "The most samples in a batch or a request.", between=(1, MOST_SAMPLES))
    model_max_batch_size: tuple[ModelLimit, ...] = setting(
        (),
        "The most samples in a batch of model NAME, even if its file forbids batches. 0: never batch. Repeatable.",
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
        "The most memory, in MiB, for the bodies of all HTTP requests that a process has in flight. Further requests "
        "get the status 429. 0 means 16 times --max-message-mib.",
        between=(0, 1_048_576),
    )
    max_concurrent_streams: int = setting(
        100,
        "How many calls a connection may have in flight. Further calls wait in the client until their deadlines.",
        between=(1, 100_000),
    )
    max_connections: int = setting(
        1024,
        "The maximum number of open connections on each port of an exposed server. A further connection is closed.",
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
