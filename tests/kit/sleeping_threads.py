"""Importing this module makes the threads of later ONNX Runtime sessions sleep while they wait for work.

By default, these threads spin for milliseconds after a session is opened and after each batch. Tests open thousands of
sessions and run only a few batches of small models in each, so the processors would spend most of their time spinning.
Answers do not change.
"""

import onnxruntime


class _Options(onnxruntime.SessionOptions):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("session.intra_op.allow_spinning", "0")


onnxruntime.SessionOptions = _Options
