"""What a network learns: the tasks of one label and of several labels per image, and teachers to learn from."""
