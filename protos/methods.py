"""The full names of the gRPC services' methods, in the form /package.Service/Method. Clients and servers use these
constants."""

INFERENCE, CLASSIFIER, HEALTH = "inference.GRPCInferenceService", "hangtag.v1.Classifier", "grpc.health.v1.Health"

CLASSIFY = f"/{CLASSIFIER}/Classify"
CLASSIFY_STREAM = f"/{CLASSIFIER}/ClassifyStream"
COMPARE = f"/{CLASSIFIER}/Compare"

MODEL_INFER = f"/{INFERENCE}/ModelInfer"
MODEL_STREAM_INFER = f"/{INFERENCE}/ModelStreamInfer"
SERVER_LIVE = f"/{INFERENCE}/ServerLive"
SERVER_METADATA = f"/{INFERENCE}/ServerMetadata"
MODEL_METADATA = f"/{INFERENCE}/ModelMetadata"
MODEL_READY = f"/{INFERENCE}/ModelReady"
MODEL_CONFIG = f"/{INFERENCE}/ModelConfig"
MODEL_STATISTICS = f"/{INFERENCE}/ModelStatistics"
REPOSITORY_INDEX = f"/{INFERENCE}/RepositoryIndex"
MODEL_LOAD = f"/{INFERENCE}/RepositoryModelLoad"
MODEL_UNLOAD = f"/{INFERENCE}/RepositoryModelUnload"

CHECK = f"/{HEALTH}/Check"
WATCH = f"/{HEALTH}/Watch"
