"""Images, compose, Kubernetes and monitoring files. The folder is a package so that tests can import sbom.py."""
