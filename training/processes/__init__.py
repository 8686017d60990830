"""The processes of a run: the process group of one process or of several ranks, and the launcher on one machine."""
