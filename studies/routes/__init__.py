"""What a route costs and gains: a cascade against its members, a split's shares, and a shadow's effect on its primary.

`run` measures through the real server with the real test images, and `report` writes the part of docs/routes.md.
"""
