"""Tests that run the images on a Docker engine: `make -C deploy build sbom test`."""
