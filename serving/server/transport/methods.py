"""The methods that query models, by their full names: their queries are traced, and their failures counted.

Those of gRPC are /package.Service/Method, those of HTTP a method and its route.
"""

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
CLASSIFY = "/hangtag.v1.Classifier/Classify"
CLASSIFY_STREAM = "/hangtag.v1.Classifier/ClassifyStream"
COMPARE = "/hangtag.v1.Classifier/Compare"

INFERENCE_METHODS = frozenset({MODEL_INFER, MODEL_STREAM_INFER, CLASSIFY, CLASSIFY_STREAM, COMPARE})

HTTP_INFER = "POST /v2/models/{model}/infer"
HTTP_CLASSIFY = "POST /v1/classify/{model}"
