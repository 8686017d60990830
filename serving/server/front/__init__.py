"""The Envoy in front of an exposed server. Only Envoy listens on the ports; it terminates TLS, and limits the clients'
connections and requests. Behind Envoy, hangtag answers on private Unix sockets."""
