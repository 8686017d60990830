"""How fast is each exported file, compared with PyTorch and with its FP32 original? See README.md.

`run.py` measures and writes the page, and results.jsonl stores the figures.
"""
