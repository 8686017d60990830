"""The load test measures any Open Inference Protocol server, and compares the server's models.

Each folder imports only folders further down this list, which import-linter checks:

    cli           parses the command line, runs a test and writes the reports
    report        writes results as a table, HTML, JSON, CSV and JUnit XML, and reads saved JSON
    comparison    computes ratios between targets or saved results, the answer in three lines, and the conditions of
                  --fail-if
    measuring     runs a whole load test: interleaved blocks, validity of runs, accuracy, peaks
    samples       builds and serialises the request messages before the run
    sut           reads the description and statistics of a server (system under test, SUT, is LoadGen's term)
    machine_check describes this machine: its processor, versions, and the CPU time of other programs
    generator     has the processes that issue queries and record their latencies
    plan          defines targets, loads, limits, the schedule of an open loop, and the settings
    statistics    computes percentiles, early stopping, t intervals, duration histograms and server timings
    record        converts results to JSON, and JSON to results

`plan` and `statistics` only compute, so tests check them without a server.
"""
