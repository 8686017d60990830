"""Tests that run real programs: hangtag as processes on shipped or new models, and third-party clients."""
