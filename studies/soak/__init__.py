"""Does the server keep its promises for an hour, while models change and workers are killed?

The module run starts the servers. The module load makes the calls, whose kinds are defined in the module calls. At the
same time, the module changes replaces models and kills workers. The module summary computes a line of results.jsonl
from the measurement, and the module report writes README.md.
"""
