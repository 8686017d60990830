"""Measures how fast the server is. In each round, systems take turns under each load. Most goals are ratios of figures
of the same round.

The modules server, http and routes are the experiments, and their results are in this folder. The module systems says
how to start each server, and loads has the loads. The folder peers has the systems that are compared with hangtag.
"""
