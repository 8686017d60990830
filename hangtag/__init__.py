"""The command line's root. It knows every other package by name and imports none of them until it is asked to."""
