"""How fast is the server over HTTP, beside FastAPI and Triton's HTTP endpoint, and what does that cost gRPC?

Over HTTP with nghttp2's h2load: an image as a binary tensor and as numbers in JSON, in turns with calls over gRPC.
"""
