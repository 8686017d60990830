"""How far the load test itself can be trusted: beside other load generators, and beside other ways to make calls."""
