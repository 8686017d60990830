"""ModelInfer as a query: any model, its tensors by name."""

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.call import InferenceResult
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import TransportCall
from hangtag.serving.server.transport.methods import MODEL_INFER
from hangtag.serving.server.transport.queries.plans import Learn, Plan, Plans


class InferQuery:
    """A ModelInferRequest, of a unary call or of a stream. Its response is a ModelInferResponse."""

    def __init__(self, request: pb.ModelInferRequest, learn: Learn | None = None) -> None:
        """Keep the request. learn: keeps a plan of it; None: none is kept."""
        self.request = request
        self.model_name = request.model_name
        self.model_version = request.model_version
        self._learn = learn

    def prepare(self, model: Servable, call: TransportCall) -> None:
        request = self.request
        inputs, datatypes = codec.decode_inputs(request, model.signature)
        specs = codec.requested_outputs(request, model.signature)
        admission = model.check(inputs, datatypes)
        if self._learn is not None:
            self._learn(request, model, specs, admission)

        def encode(result: InferenceResult) -> pb.ModelInferResponse:
            return codec.encode_response(request, model.version, specs, result.outputs)

        call.inputs, call.encode, call.outputs = inputs, encode, [spec.name for spec in specs]
        call.samples, call.batch_key = admission
        call.deadline = codec.request_deadline(request, call.deadline)


class PlannedQuery:
    """A serialized ModelInferRequest with a plan. Its response is a serialized ModelInferResponse."""

    def __init__(self, message: bytes, plan: Plan) -> None:
        self.request = plan.request
        self.model_name = plan.model_name
        self.model_version = plan.model_version
        self._message = message
        self._plan = plan

    def prepare(self, model: Servable, call: TransportCall) -> None:
        if self._plan.model is model:
            self._plan.decode(self._message, call)
            return
        query = InferQuery(_parse(self._message))  # another version serves by now
        query.prepare(model, call)


def infer_query(message: bytes, plans: Plans) -> InferQuery | PlannedQuery:
    """Return the query of a serialized ModelInferRequest. Where it has no plan, one will be kept if there can be one.

    Raises:
        InvalidRequestError: The bytes are not a ModelInferRequest.
    """
    plan = plans.find(message)
    if plan is not None:
        return PlannedQuery(message, plan)
    learn = plans.learner(message)
    return InferQuery(_parse(message), learn)


def _parse(message: bytes) -> pb.ModelInferRequest:
    return codec.parse_message(pb.ModelInferRequest.FromString, message, MODEL_INFER)


def serialized(response: pb.ModelInferResponse | bytes) -> bytes:
    """Return the bytes of a response of either query."""
    return response if isinstance(response, bytes) else response.SerializeToString()
