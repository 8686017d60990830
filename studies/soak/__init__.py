"""Does the server keep its promises for hours?

Two servers under a steady mixed load, whose models change every minute and whose workers are killed.
"""
