"""How accurate is each network, with the study's recipe and with the best recipe? See README.md, which is finished.

run trains the networks, results.jsonl keeps the figures, and teachers/ has the files of three teachers.
"""
