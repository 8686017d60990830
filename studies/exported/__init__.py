"""How fast is each exported file, compared with PyTorch and with its FP32 original? See README.md.

The module run measures and writes the page, and results.jsonl keeps the figures.
"""
