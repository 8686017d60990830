"""How hangtag is deployed. The only Python here makes parts of its documents."""
