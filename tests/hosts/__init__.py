"""Failing hosts, simulated as network namespaces of this machine: what callers of three servers notice."""
