"""The parts of docs/ that are made from declarations and measurements: `python -m studies`, or `make docs`."""
