"""Measures the speed of the server. In each round, the compared systems take turns under each load. Most goals are
ratios of two figures from the same round.

The modules server, http and routes are the experiments, whose results are in this folder. The module systems starts the
servers, and loads defines the loads. The folder peers contains the systems that are compared with hangtag.
"""
