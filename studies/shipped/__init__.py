"""How accurate are the models in models/, and how fast are they served? README.md and a table in docs/ answer this.

The module run load-tests the models, and results.jsonl keeps the figures. The module report writes the pages from these
figures and from the models' files.
"""
