"""Tests of the deployment files. The tests in engine/ start containers; the other tests only read the files."""
