"""ONNX Runtime, which only this folder uses: sessions, execution providers, IO binding and CUDA graphs. The engine and
the export use ``session.Runtime``. This package imports ONNX Runtime with telemetry off."""

import os

# Official Linux builds since 1.29 send telemetry unless they find this variable when they are imported. This module
# sets the variable only for the import, so that a program that imports hangtag keeps its own environment.
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_was_set = _TELEMETRY in os.environ
os.environ.setdefault(_TELEMETRY, "1")
try:
    import onnxruntime
finally:
    if not _was_set:
        del os.environ[_TELEMETRY]
if os.environ.get(_TELEMETRY, "1") == "1":
    onnxruntime.disable_telemetry_events()
