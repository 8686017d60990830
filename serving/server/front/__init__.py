"""The Envoy in front of an exposed server. Only Envoy listens on the ports, with TLS and every limit on clients. Behind
Envoy, hangtag answers on private Unix sockets."""
