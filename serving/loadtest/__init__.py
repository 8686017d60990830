"""The load test: drives any Open Inference Protocol server and compares its models.

The way through: scenario (what is asked), target (the server), samples (what is sent), session (the order of the
blocks), worker and generator (the process that sends), recorder and results (what was measured), comparison (the
sentences), and table, document, html (what a person and a program read). schedule, statistics, histogram and units are
arithmetic.
"""
