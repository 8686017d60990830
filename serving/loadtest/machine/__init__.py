"""The machine that the load test runs on: its processor and versions, how busy its CPUs are, and who else uses them."""
