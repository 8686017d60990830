"""The models of the server, as clients see and control them: descriptions, statistics, loading and unloading."""
