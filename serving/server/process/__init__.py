"""The server's processes: ``main`` runs the command, ``server`` is a whole server in one process, ``workers`` several
that share a port."""
