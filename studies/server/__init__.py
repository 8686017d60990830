"""How much of bare ONNX Runtime's throughput and latency the server keeps: docs/performance.md, docs/deploy.md's table.

run measures, results.jsonl keeps the rounds, goals judges them, report and capacity make the parts of the pages.
"""
