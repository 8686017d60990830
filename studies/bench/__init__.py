"""How fast the server is: systems under loads, which take turns in rounds, and goals that are ratios within a round.

server, http, routes and workers are the experiments, with their results in this folder. systems says how to start each
server, peers/ has the systems with which hangtag is compared, and loads has the loads.
"""
