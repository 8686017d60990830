"""The methods of a service that its servicer serves, whatever version of the protocol describes it."""

import grpc

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.transport.grpc.calls import Context
from hangtag.serving.server.transport.grpc.handlers import Handlers
from tests.serving.server.parts import FakeRuntime, engine_of, served

SERVICE = pb.DESCRIPTOR.services_by_name["Classifier"]


class OneMethod:
    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        return pb.ClassifyResponse(model_name=request.model_name)


def test_a_method_of_a_newer_protocol_is_left_unimplemented() -> None:
    handlers = Handlers(engine_of(served(FakeRuntime())), None, None)
    handlers.add_service(SERVICE, OneMethod())

    class Details(grpc.HandlerCallDetails):
        def __init__(self, name: str) -> None:
            self.method = f"/{SERVICE.full_name}/{name}"
            self.invocation_metadata = ()

    assert handlers.service(Details("Classify")) is not None
    assert handlers.service(Details("Compare")) is None
