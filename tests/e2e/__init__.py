"""Tests that run real programs: third-party clients, and hangtag commands with shipped or newly trained models."""
