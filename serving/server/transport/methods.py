"""The gRPC methods that query models, by their full names: their queries are traced, and their failures counted."""

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
CLASSIFY = "/hangtag.v1.Classifier/Classify"
CLASSIFY_STREAM = "/hangtag.v1.Classifier/ClassifyStream"
COMPARE = "/hangtag.v1.Classifier/Compare"

INFERENCE_METHODS = frozenset({MODEL_INFER, MODEL_STREAM_INFER, CLASSIFY, CLASSIFY_STREAM, COMPARE})
