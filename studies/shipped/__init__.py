"""How accurate are the models in models/, and how fast are they served? README.md and a table in docs/ answer this.

`run.py` load-tests the models, and results.jsonl stores the figures. `report.py` writes the pages from these figures
and from the models' files.
"""
