"""Several processes that train one network: the process group, and the launcher on one machine."""
