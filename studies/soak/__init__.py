"""Does the server keep its promises for an hour, while models change and workers are killed? See README.md.

The module run starts the servers. The module load makes the calls, whose kinds the module calls defines. Meanwhile the
module changes replaces models and kills workers. The module summary turns the measurement into a line of results.jsonl,
and report writes the page.
"""
