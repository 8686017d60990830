"""ModelInfer as a query: any model, its tensors by name."""

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.submission import PreparedQuery


class InferQuery:
    """A ModelInferRequest, of a unary call or of a stream."""

    def __init__(self, request: pb.ModelInferRequest, call: Call) -> None:
        self.call = call
        self.model_name = request.model_name
        self.model_version = request.model_version
        self._request = request

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[pb.ModelInferResponse]:
        inputs, datatypes = codec.decode_inputs(self._request, model.signature)
        specs = codec.requested_outputs(self._request, model.signature)

        def encode(result: InferenceResult) -> pb.ModelInferResponse:
            return codec.encode_response(self._request, model.version, specs, result.outputs)

        return PreparedQuery(
            inputs,
            datatypes,
            codec.request_deadline(self._request, deadline),
            encode,
            outputs=[spec.name for spec in specs],
        )
