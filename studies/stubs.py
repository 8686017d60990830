"""Call and serve the methods of the protocol's services. The modules of the messages describe the services.

Only tests and studies need these stubs, because hangtag's server and clients have their own code for calls.
"""

from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from hangtag.protos import classifier_pb2, inference_pb2

INFERENCE: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CLASSIFIER: ServiceDescriptor = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"]


class _Stub:
    """Has a callable for each method of a service. The callables take and return messages."""

    def __init__(self, service: ServiceDescriptor, channel: Any) -> None:
        for method in service.methods:
            make = getattr(channel, f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}")
            serialize = GetMessageClass(method.input_type).SerializeToString
            parse = GetMessageClass(method.output_type).FromString
            setattr(self, method.name, make(f"/{service.full_name}/{method.name}", serialize, parse))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


class InferenceStub(_Stub):
    """The methods of inference.GRPCInferenceService.

    Example:
        InferenceStub(channel).ModelInfer(request, timeout=1)
    """

    def __init__(self, channel: Any) -> None:
        """``channel`` is a channel of grpc or of grpc.aio."""
        super().__init__(INFERENCE, channel)


class ClassifierStub(_Stub):
    """The methods of hangtag.v1.Classifier."""

    def __init__(self, channel: Any) -> None:
        """``channel`` is a channel of grpc or of grpc.aio."""
        super().__init__(CLASSIFIER, channel)


def serve_inference(servicer: object, server: grpc.Server) -> None:
    """Serve the unary methods of GRPCInferenceService that an object has. The server does not know other methods."""
    handlers = {}
    for method in INFERENCE.methods:
        answer = getattr(servicer, method.name, None)
        if answer is not None:
            parse = GetMessageClass(method.input_type).FromString
            serialize = GetMessageClass(method.output_type).SerializeToString
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(answer, parse, serialize)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(INFERENCE.full_name, handlers),))


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"
