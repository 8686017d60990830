"""What becomes of pictures, networks and ONNX files that are not hangtag's own: a part of docs/training.md.

run takes picture sets from a folder to a served, load-tested model; results.jsonl keeps what it measured, report writes
the page.
"""
