"""The samples of a target: read from a folder or an .npz file, or generated at random. They are fitted to the model's
inputs and serialised before the run."""

from hangtag.serving.loadtest.samples.library import SampleLibrary, load

__all__ = ["SampleLibrary", "load"]
