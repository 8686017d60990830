"""The inference server: it loads the models of a repository and answers clients over gRPC and HTTP.

The path of every request: bytes -> transport (decode) -> engine (look up, validate) -> queue -> runtime -> transport
(encode) -> bytes. Each folder imports only folders further down this list (import-linter checks it):

    process         the server as one process or as several workers: start, drain, stop
    front           Envoy, which listens in front of an exposed server, with TLS and every limit
    transport       grpc, native and http: requests to calls, outcomes to answers
    wire            what the transports share: the call, codecs, plans, status codes, tracing, tokens
    engine          which models and routes serve, look-up, validation, loading and replacing
    queue           the batching policy: which calls are computed together, and when
    classification  image files to pixels, outputs to labels
    runtime         ONNX Runtime
    telemetry       statistics, metrics, the log
    config          every setting, declared once
    host            CPUs, memory, ports and files of the machine
"""
