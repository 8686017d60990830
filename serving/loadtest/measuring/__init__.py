"""From blocks to statements: the order of a test, its runs and whether they are valid, and how targets compare."""
