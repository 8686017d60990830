"""Renders results for people (table, HTML) and programs (JSON, CSV, JUnit XML, Prometheus); reads saved JSON."""
