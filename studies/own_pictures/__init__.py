"""How well do pictures, networks and ONNX files work that are not hangtag's own? See README.md.

run takes the picture sets of sets, and the network of network, from a folder to a served, load-tested model, and writes
the page. results.jsonl keeps the figures.
"""
