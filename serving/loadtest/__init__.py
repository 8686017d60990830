"""The load test: drives any Open Inference Protocol server and compares its models.

The way through, and who may import whom, from the last to the first:

    plan        what is asked: targets, loads, limits, the schedule of an open loop, the search for a peak
    statistics  percentiles, early stopping, t intervals, histograms
    target      the server behind a target: its description, its own counters, the samples that it is sent
    generator   the processes that send, and the recording of what comes back
    measuring   the order of blocks, runs and whether they are VALID, comparisons, accuracy, gates: results
    report      results as a table, HTML, JSON, CSV, JUnit XML and Prometheus' text, and saved ones read again
    cli         the commands

plan and statistics are arithmetic that is tested without a server.
"""
