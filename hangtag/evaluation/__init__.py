"""`hangtag evaluate`: one way to ask a run, an ONNX file and a served model, and one way to judge their answers."""
