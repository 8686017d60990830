"""The inference server: it loads the models of a repository and answers clients over gRPC and HTTP.

The way of every request: bytes -> transport (decode) -> engine (look up, validate) -> batching -> runtime -> transport
(encode) -> bytes. Each folder imports only folders further down this list (import-linter checks it):

    process         the server as one process or as several workers: start, drain, stop
    transport       grpc, native and http: requests to queries, outcomes to answers, errors to status codes; TLS, tokens
    engine          which models and routes serve, look-up, validation, loading and replacing
    batching        the batching policy: which requests are computed together, and when
    classification  image files to pixels, outputs to labels
    runtime         ONNX Runtime
    telemetry       statistics, metrics, the log
    config          every setting, declared once
    host            CPUs, memory, ports and files of the machine
"""
