"""Renders results for people (table, HTML) and programs (JSON, CSV, JUnit XML); reads saved JSON."""
