"""What a network learns: single-label and multi-label classification, augmentation, and distillation from teachers."""
