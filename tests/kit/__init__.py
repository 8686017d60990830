"""Shared code of the tests: servers, clients over every transport, the command, certificates, models, and waiting."""
