"""What is known of a target before a run: whether it is there, what it takes, what is sent, what it counts itself."""
