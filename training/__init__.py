"""Data set -> trained weights. catalog.py lists the networks; loop/trainer.py has the training loop."""
