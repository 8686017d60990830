"""ModelInfer as a query from bytes to bytes, for transports that leave parsing and serializing to it."""

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.methods import MODEL_INFER
from hangtag.serving.server.transport.queries.request_templates import RequestTemplates
from hangtag.serving.server.transport.submission import PreparedQuery

_NO_DATATYPES: dict[str, str] = {}


class InferMessageQuery:
    """A serialized ModelInferRequest. Its response is a serialized ModelInferResponse."""

    __slots__ = ("_message", "_request", "_template", "_templates", "call", "model", "model_name", "model_version")

    def __init__(self, message: bytes, call: Call, templates: RequestTemplates) -> None:
        """Find the message's template, or parse it.

        Raises:
            InvalidRequestError: The bytes are not a ModelInferRequest.
        """
        self.call = call
        self.model: Servable | None = None
        """The version that the query was last prepared for."""
        self._message = message
        self._templates = templates
        self._template = template = templates.find(message)
        self._request = _parse(message) if template is None else template.request
        self.model_name: str = self._request.model_name if template is None else template.model_name
        self.model_version: str = self._request.model_version if template is None else template.model_version

    @property
    def is_known(self) -> bool:
        """Whether the message has a template, so that it costs no time to decode it."""
        return self._template is not None

    @property
    def request(self) -> pb.ModelInferRequest:
        """The request, possibly without its contents: for the log."""
        return self._request

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[bytes]:
        self.model = model
        template = self._template
        if template is not None:
            if template.model() is model:
                inputs = template.inputs(self._message)
                return PreparedQuery(
                    inputs, _NO_DATATYPES, deadline, template.encode, template.admission, template.output_names
                )
            self._template, self._request = None, _parse(self._message)  # another version serves by now
        request = self._request
        inputs, datatypes = codec.decode_inputs(request, model.signature)
        specs = codec.requested_outputs(request, model.signature)
        admission = model.check(inputs, datatypes)
        self._templates.learn(self._message, request, model, specs, admission)

        def encode(result: InferenceResult) -> bytes:
            return codec.encode_response(request, model.version, specs, result.outputs).SerializeToString()

        return PreparedQuery(
            inputs,
            datatypes,
            codec.request_deadline(request, deadline),
            encode,
            admission,
            [spec.name for spec in specs],
        )


def _parse(message: bytes) -> pb.ModelInferRequest:
    return codec.parse_message(pb.ModelInferRequest.FromString, message, MODEL_INFER)
