"""The inference server: it loads the models of a repository and answers clients over gRPC.

The way of every request: bytes -> transport (decode) -> engine (look up, validate) -> batcher -> runtime -> transport
(encode) -> bytes.
"""
