"""The base of every error that the user can mend: a leaf module, which each package of hangtag may import.

A package derives its errors from ``UserError`` and raises them without knowing of a command line. The root command
shows one as a single line on standard error, without a traceback, and exits with 1. Any other exception
is a bug of hangtag's and ends with its traceback. Code that runs outside of the root command, such as a process that a
command starts, or a command of another program, shows them in the same way with ``hangtag.output.one_line_errors``.
"""


class UserError(Exception):
    """A problem that the user can mend. The message says what was wrong, what was expected, and what to do."""
