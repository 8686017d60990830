"""Calls that are streams of requests: answered in order, with failures in their place.

ordered      every open stream: what is read, how much is on its way, what is answered when
inference    ModelStreamInfer on top of that; ClassifyStream is in classifier_service
errors       how streams end, and what becomes of bytes that are no message
"""
