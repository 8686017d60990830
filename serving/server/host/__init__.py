"""What the server needs from the machine: usable CPUs, memory, ports, and files that change."""
