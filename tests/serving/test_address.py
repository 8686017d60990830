"""The addresses of servers: which texts are none, and which host and port one names."""

import pytest

from hangtag.errors import UserError
from hangtag.serving import address
from hangtag.serving.client import Client


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8001",
        "localhost:1",
        "[::1]:65535",
        "gpu-1.example.org:8001",
        "unix:/run/x",
        "dns:///hangtag.default:1",
        "http://127.0.0.1:8000",
        "HTTPS://[::1]:8443/",
        "https://example.org/tenant/a",
    ],
)
def test_a_host_with_a_port_a_resolver_s_address_and_a_url_are_taken(text: str) -> None:
    address.require(text)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "8001", ":8001", "a:0", "a:65536", "::1:8001", "[::1]", "a b:1"])
def test_other_texts_are_refused_before_any_call(text: str) -> None:
    with pytest.raises(address.AddressError, match=r"is no address: write HOST:PORT, for example 127\.0\.0\.1:8001"):
        Client(text)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("grpc://gpu-1:8001", "write gpu-1:8001$"),
        ("grpcs://gpu-1:8001", "write gpu-1:8001; for TLS add --tls-ca"),
        ("grpc://gpu-1", "write gpu-1:PORT$"),
    ],
)
def test_a_url_of_grpc_is_refused_with_what_to_write_instead(url: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        Client(url)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("gpu-1:8001", ("gpu-1", 8001)),
        ("[::1]:8001", ("::1", 8001)),
        ("dns:///gpu-1:8001", ("gpu-1", 8001)),
        ("ipv4:10.0.0.11:8001", ("10.0.0.11", 8001)),
        ("ipv4:10.0.0.11:8001,10.0.0.12:8001", None),
        ("unix:/run/hangtag.sock", None),
        ("http://gpu-1/tenant/a", ("gpu-1", 80)),
        ("HTTPS://[::1]", ("::1", 443)),
    ],
)
def test_the_host_and_the_port_of_an_address(text: str, endpoint: tuple[str, int] | None) -> None:
    assert address.endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("ipv4:10.0.0.11:8001,10.0.0.12:8001", "10.0.0.11:8001"),
        ("ipv6:[::1]:8001,[::2]:8001", "[::1]:8001"),
        ("ipv4:10.0.0.11:8001", ""),
        ("dns:///models.example:8001", ""),
    ],
)
def test_calls_to_several_servers_carry_the_first_ones_address(text: str, authority: str) -> None:
    assert address.authority(text) == authority
