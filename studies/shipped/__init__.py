"""How accurate are the models in models/, and how fast are they served? See README.md, and the table in docs/.

The module run load-tests the models, and results.jsonl keeps the figures. The module report writes the pages from the
figures and from the models' files.
"""
