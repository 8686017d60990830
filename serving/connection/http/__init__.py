"""The same calls over HTTP: the Open Inference Protocol's REST with binary tensors, and POST /v1/classify.

It is imported for http:// and https:// addresses alone, because it needs httpx2 (the extra ``http``), numpy and the
protocol's messages.
"""
