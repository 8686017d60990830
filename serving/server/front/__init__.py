"""The Envoy in front of an exposed server. Only Envoy listens on the ports, with TLS and every limit on clients' use;
hangtag answers behind Envoy on private Unix sockets."""
