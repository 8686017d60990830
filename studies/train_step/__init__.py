"""How long a training step takes, compared with Keras and plain PyTorch: a section of docs/study.md.

run measures and results.jsonl keeps the figures; the experiment `accuracy` writes the page.
"""
