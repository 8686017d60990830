"""What the transports share: the call, codecs, plans, admission, statuses and tracing.

``status`` has the status of each error over gRPC and HTTP, for example for a full queue.
"""
