"""Does the server keep its promises for an hour, while models change and workers are killed? See README.md.

run starts the servers and puts the calls of calls on them, with client processes of load, while changes replaces models
and kills workers. summary turns the measurement into a line of results.jsonl, and report writes the page.
"""
