"""Lets the threads of ONNX Runtime's sessions sleep while they wait for work. Its import does that, for later sessions.

By default they spin for milliseconds once a session is opened and after each batch, which is most of what it costs to
start a server of small models. Tests open thousands of sessions for a few batches each. The answers are the same.
"""

import onnxruntime


class _Options(onnxruntime.SessionOptions):  # type: ignore[misc]  # it has no types
    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("session.intra_op.allow_spinning", "0")


onnxruntime.SessionOptions = _Options
