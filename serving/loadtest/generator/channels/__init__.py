"""What carries the calls: one interface, a kind of channel for each protocol, and the choice between them."""
