"""ModelInfer over HTTP: a request's JSON head and the tensors after it, its query, and the route that answers it."""
