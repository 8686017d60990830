"""The parts of the machine that the server uses: CPUs, memory, ports, and files that change."""
