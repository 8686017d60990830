"""The parts of docs/ that are made from declarations and measurements: `python -m deploy.pages`, or `make docs`."""
