"""Tests of the deployment files: those here read the files, those in engine/ start containers."""
