"""How fast the server is, beside Triton, an earlier server and bare ONNX Runtime: docs/performance.md, docs/deploy.md.

run measures, results.jsonl keeps the rounds, goals judges them, report and capacity make the parts of the pages.
"""
