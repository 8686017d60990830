"""How accurate are the models in models/, and how fast are they served? See README.md, and the table in docs/.

run load-tests the models, results.jsonl keeps the figures, and report writes the pages from the figures and the models'
files.
"""
