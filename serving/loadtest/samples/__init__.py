"""What is sent: arrays from a folder, a file or thin air, fitted to a model, and serialised before the run."""

from hangtag.serving.loadtest.samples.library import SampleLibrary, load

__all__ = ["SampleLibrary", "load"]
