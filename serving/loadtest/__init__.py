"""The load test measures any Open Inference Protocol server, and compares the server's models.

Each folder imports only folders further down this list (import-linter checks it):

    cli         the commands: parse, call, render
    report      results as a table, HTML, JSON, CSV and JUnit XML; reads saved JSON
    comparison  ratios between targets or saved results, the answer in three lines, and the conditions of --fail-if
    measuring   a whole load test: interleaved blocks, validity of runs, accuracy, peaks
    sut         the system under test (SUT, LoadGen's term): a server's description and statistics
    samples     request messages, serialised before the run
    machine     this machine: processor, versions, how busy its CPUs are, and what other programs take of them
    generator   the processes that issue queries and record their latencies
    plan        targets, loads, limits, the schedule of an open loop, the peak search
    statistics  percentiles, early stopping, t intervals, duration histograms, server timings
    record      how results become JSON, and JSON results

plan and statistics are pure arithmetic, tested without a server.
"""
