"""Measures the speed of the server. In each round, the compared systems take turns under each load. Most goals are
ratios of two figures from the same round.

`server.py`, `http.py` and `routes.py` are the experiments, whose results are in this folder. `systems.py` starts the
servers, `loads.py` defines the loads, and the folder `peers` contains the systems that are compared with hangtag.
"""
