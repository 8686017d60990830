"""Stubs that call the methods of the protocol's services, whose descriptors are in the message modules.

Only tests and studies need these stubs, because hangtag's clients have their own code for calls.
"""

from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from hangtag.protos import classifier_pb2, inference_pb2


class _Stub:
    """Has a callable for each method of a service, which takes and returns protobuf messages."""

    service: ServiceDescriptor

    def __init__(self, channel: Any) -> None:
        """``channel`` is a channel of grpc or of grpc.aio."""
        for method in self.service.methods:
            streaming = method.client_streaming, method.server_streaming
            make = getattr(channel, "_".join("stream" if each else "unary" for each in streaming))
            serialize = GetMessageClass(method.input_type).SerializeToString
            parse = GetMessageClass(method.output_type).FromString
            setattr(self, method.name, make(f"/{self.service.full_name}/{method.name}", serialize, parse))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


class InferenceStub(_Stub):
    """The methods of inference.GRPCInferenceService.

    Example:
        InferenceStub(channel).ModelInfer(request, timeout=1)
    """

    service = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class ClassifierStub(_Stub):
    """The methods of hangtag.v1.Classifier."""

    service = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"]
