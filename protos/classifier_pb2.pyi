from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_SINGLE_LABEL: _ClassVar[Task]
    TASK_MULTI_LABEL: _ClassVar[Task]
TASK_UNSPECIFIED: Task
TASK_SINGLE_LABEL: Task
TASK_MULTI_LABEL: Task

class ClassifyRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "encoded", "raw", "top_k", "id")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    encoded: bytes
    raw: RawImage
    top_k: int
    id: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., top_k: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("height", "width", "pixels")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    pixels: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "labels", "timings", "task", "path_probability", "unsure")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PATH_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    UNSURE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    labels: _containers.RepeatedCompositeFieldContainer[LabelScore]
    timings: Timings
    task: Task
    path_probability: float
    unsure: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., task: _Optional[_Union[Task, str]] = ..., path_probability: _Optional[float] = ..., unsure: bool = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "index", "probability", "distance")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    label: str
    index: int
    probability: float
    distance: float
    def __init__(self, label: _Optional[str] = ..., index: _Optional[int] = ..., probability: _Optional[float] = ..., distance: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("preprocess_ns", "queue_ns", "compute_ns", "batch_size", "stages")
    PREPROCESS_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    preprocess_ns: int
    queue_ns: int
    compute_ns: int
    batch_size: int
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, preprocess_ns: _Optional[int] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., batch_size: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("model", "queue_ns", "compute_ns", "batch_size")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    model: str
    queue_ns: int
    compute_ns: int
    batch_size: int
    def __init__(self, model: _Optional[str] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., batch_size: _Optional[int] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("id", "answer", "failure")
    ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    answer: ClassifyResponse
    failure: Failure
    def __init__(self, id: _Optional[str] = ..., answer: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("models", "encoded", "raw", "top_k")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelChoice]
    encoded: bytes
    raw: RawImage
    top_k: int
    def __init__(self, models: _Optional[_Iterable[_Union[ModelChoice, _Mapping]]] = ..., encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., top_k: _Optional[int] = ...) -> None: ...

class ModelChoice(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[ModelOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[ModelOutcome, _Mapping]]] = ...) -> None: ...

class ModelOutcome(_message.Message):
    __slots__ = ("model_name", "answer", "failure")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    answer: ClassifyResponse
    failure: Failure
    def __init__(self, model_name: _Optional[str] = ..., answer: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
