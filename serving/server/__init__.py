"""Model repository, runtime, batcher, engine; transport/ puts them on the wire.

A request's way, straight through: bytes -> transport/codec -> engine (look up, validate) -> batcher -> runtime -> codec
-> bytes.
"""
