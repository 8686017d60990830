"""Explains why a server did not describe itself, with what to do about it."""

import grpc

from hangtag.serving import address as server_address
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import StrPath

# gRPC's words for a connection that the server closed, as a TLS server does when a client speaks plain text.
_CLOSED = ("Socket closed", "Connection reset", "recvmsg:Connection", "Broken pipe")


def explain(error: ClientError, address: str, tls_ca: StrPath | None) -> str:
    """One sentence for the user about a failed call of ServerMetadata; `tls_ca` is set where the call used TLS."""
    code, details = error.code, str(error)
    if server_address.is_http(address) and code not in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    ):
        return f"{details}."  # HTTP's failures are explained already
    if code == grpc.StatusCode.UNAVAILABLE and tls_ca is not None and "WRONG_VERSION_NUMBER" in details:
        return f"the server at {address} does not use TLS: leave out --tls-ca."
    if code == grpc.StatusCode.UNAVAILABLE and tls_ca is not None and "CERTIFICATE_VERIFY_FAILED" in details:
        return f"the certificate of the server at {address} was not signed by {tls_ca} (--tls-ca)."
    if code == grpc.StatusCode.UNAVAILABLE and tls_ca is None and any(words in details for words in _CLOSED):
        return (
            f"the server at {address} hangs up before it answers, as one with TLS does: "
            "give --tls-ca if it has a certificate."
        )
    if code == grpc.StatusCode.UNAVAILABLE and "Failed parsing HTTP/2" in details:
        explanation = server_address.http_explanation(address)
        return f"{explanation or f'the port at {address} does not speak gRPC: give the gRPC port'}."
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return f"no server answers at {address} ({details}): start one with 'hangtag serve' or give --server."
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {address} does not speak the Open Inference Protocol (inference.GRPCInferenceService)."
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return f"the server at {address} refused the call without valid credentials ({details}): give --token-file."
    return f"the server at {address} could not describe itself: {status(error)}."


def status(error: ClientError) -> str:
    """The status code and the message of a failed call."""
    return f"{error.code.name} ({error})"
