"""What several server processes gain, and what memory they take: the tables of docs/performance.md, copied by hand.

run measures calls and memory, sharing measures how much of their models' memory processes could share.
"""
