"""How fast is each exported file, compared with PyTorch and with its FP32 original? See README.md.

run measures and writes the page; results.jsonl keeps the figures.
"""
