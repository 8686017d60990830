"""How fast each exported file is, compared with PyTorch and with its FP32 original: parts of docs/export.md.

run measures, results.jsonl keeps the figures, report writes the page; profile shows where a batch's time goes, and
instructions with which of the processor's instructions it is computed (instructions.jsonl).
"""
