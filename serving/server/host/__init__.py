"""What the server needs from the machine: the number of usable CPUs, memory given back, files that change."""
