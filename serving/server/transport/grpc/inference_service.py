"""inference.GRPCInferenceService, the Open Inference Protocol: each method translates and asks the engine."""

from collections.abc import Iterator
from importlib import metadata

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import Control
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import NotFoundError, UnavailableError
from hangtag.serving.server.runtime.session import VERSION
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.deadline import deadline_of, own_deadline
from hangtag.serving.server.transport.grpc.repository_methods import RepositoryMethods
from hangtag.serving.server.transport.grpc.streams.errors import ends_with_errors
from hangtag.serving.server.transport.grpc.streams.inference import InferStream
from hangtag.serving.server.transport.grpc.streams.ordered import Streams
from hangtag.serving.server.transport.grpc.unary_call import infer
from hangtag.serving.server.transport.lookup import with_model
from hangtag.serving.server.transport.status import answers_errors, counts_failures
from hangtag.serving.signature import TensorSpec

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class InferenceService(RepositoryMethods, inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Errors leave as domain errors; answers_errors gives them their status."""

    def __init__(self, engine: Engine, control: Control, streams: Streams) -> None:
        super().__init__(control)
        self._engine = engine
        self._stream = InferStream(engine, streams)

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready)

    @answers_errors
    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="hangtag", version=metadata.version("hangtag"), extensions=EXTENSIONS)

    @answers_errors
    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        model = self._engine.model(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[each.version for each in self._engine.versions(model.name)],
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in model.signature.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.signature.outputs],
        )

    @answers_errors
    @counts_failures
    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        def ask(model: ServedModel) -> pb.ModelInferResponse:
            inputs, datatypes = codec.decode_inputs(request)
            specs = codec.requested_outputs(request, model.signature)
            answer = infer(model, inputs, datatypes, context, own_deadline(request, deadline_of(context)))
            return codec.encode_response(request, model.version, specs, answer.outputs)

        return with_model(self._engine, request.model_name, request.model_version, ask)

    @ends_with_errors
    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        return self._stream.answer(request_iterator, context)

    @answers_errors
    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=_config(self._engine.model(request.name, request.version)))


# Long, and of use only to who has the file: 'hangtag models' reads them there.
_NOT_TOLD = ("training", "reference", "reference_labels")


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.wire_shape)


def _config(model: ServedModel) -> pb.ModelConfig:
    batched = model.signature.batched
    skipped = 1 if batched else 0  # Triton's dims leave the batch axis out
    parameters = {f"hangtag.{key}": value for key, value in model.signature.metadata.items() if key not in _NOT_TOLD}
    parameters |= {
        "execution_provider_asked": model.runtime.requested_provider,
        "execution_provider": model.runtime.provider,
        "cuda_graphs": "on" if model.runtime.cuda_graphs else "off",
        "onnxruntime_version": VERSION,
        "file_bytes": str(model.runtime.file_bytes),
        "intra_op_threads": str(model.runtime.threads),
        "alone_threads": str(model.runtime.alone_threads or model.runtime.threads),
    }
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=model.max_batch_size if batched else 0,
        default_model_filename="model.onnx",
        input=[
            pb.ModelInput(name=spec.name, data_type=_data_type(spec), dims=spec.wire_shape[skipped:])
            for spec in model.signature.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.wire_shape[skipped:])
            for spec in model.signature.outputs
        ],
        instance_group=[
            pb.ModelInstanceGroup(
                name=model.name,
                count=model.instances,
                kind=pb.ModelInstanceGroup.KIND_CPU if model.runtime.on_cpu else pb.ModelInstanceGroup.KIND_GPU,
            )
        ],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
    )
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = round(model.batcher.max_queue_delay * 1e6)
    return config


def _data_type(spec: TensorSpec) -> str:
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
