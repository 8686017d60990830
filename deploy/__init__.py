"""Images, compose, Kubernetes and monitoring files. A package only so that the tests can import sbom.py."""
