"""What the server asks of the machine: usable CPUs, memory that goes back to the system, files that change."""
