"""Evaluate a run, an ONNX file or a served model: ``Subject`` is one interface to the three, and the same metrics judge
their outputs. `hangtag evaluate` is the command. The folder cascade chooses thresholds for `hangtag route tune`."""
