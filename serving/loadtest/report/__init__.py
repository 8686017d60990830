"""Renders results for people (table, HTML) and for programs (JSON, CSV, JUnit XML), and reads saved JSON."""
