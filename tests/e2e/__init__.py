"""Tests that run the real programs: hangtag as processes on shipped or fresh models, and other makers' clients."""
