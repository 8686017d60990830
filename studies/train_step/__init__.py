"""How long a training step takes, compared with Keras and plain PyTorch: sections of docs/study.md and training.md.

run measures and results.jsonl keeps the figures; the experiment `accuracy` writes docs/study.md. profile records where
a step of lstm spends its time, and what other ways to do it take (profile.jsonl); batch trains lstm with larger batches
(batch.jsonl). report writes the parts of docs/training.md.
"""
