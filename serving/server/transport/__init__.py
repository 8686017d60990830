"""The transports: grpc, native, http, and what they share. Only here are gRPC, HTTP and the protocol's messages known.

``status`` has the status code of each error, such as that of a full queue, and ``http.status`` its HTTP status.
"""
