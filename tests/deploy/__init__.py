"""Tests of the deployment files. The tests in this folder read the files; those in engine/ start containers."""
