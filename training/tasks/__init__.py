"""What a network learns: the tasks of one label and of several labels per image, augmentation, and teachers."""
