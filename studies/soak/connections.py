"""What a client process has open to one server: clients of hangtag over gRPC and HTTP, and bare ones."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import grpc
import httpx2

from hangtag.serving.client import AsyncClient
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials
from studies.stubs import InferenceStub

_TIMEOUT = 15.0
"""Seconds. Every answer comes in a fraction of it, or something is wrong."""
_NO_RETRIES = ConnectionOptions(retries=0)
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        name: The server's name in the results.
        grpc: host:port.
        http: host:port.
        ca: PEM file of the authority that signed its certificate; None: it has no TLS.
    """

    name: str
    grpc: str
    http: str
    ca: str | None = None

    @property
    def url(self) -> str:
        """http://host:port, or https://host:port."""
        return f"{'http' if self.ca is None else 'https'}://{self.http}"

    @property
    def credentials(self) -> Credentials:
        return Credentials() if self.ca is None else Credentials(tls_ca=self.ca)

    def client(self, *, http: bool = False) -> AsyncClient:
        """A client of its own connection that tries no call again, so that every failure is seen."""
        return AsyncClient(
            self.url if http else self.grpc, timeout=_TIMEOUT, credentials=self.credentials, options=_NO_RETRIES
        )


@dataclass(frozen=True)
class Connections:
    """The connections that last as long as the load."""

    address: Address
    over_grpc: AsyncClient
    over_http: AsyncClient
    stub: InferenceStub
    http: httpx2.AsyncClient

    @classmethod
    async def open(cls, address: Address, stack: AsyncExitStack) -> Self:
        """Open them; they are closed with the stack."""
        credentials = address.credentials.channel_credentials()
        if credentials is None:
            channel = grpc.aio.insecure_channel(address.grpc, _OWN_CONNECTION)
        else:
            channel = grpc.aio.secure_channel(address.grpc, credentials, _OWN_CONNECTION)
        await stack.enter_async_context(channel)
        verify = address.credentials.ssl_context(address.url) or True
        return cls(
            address,
            await stack.enter_async_context(address.client()),
            await stack.enter_async_context(address.client(http=True)),
            InferenceStub(channel),
            await stack.enter_async_context(
                httpx2.AsyncClient(base_url=address.url, verify=verify, timeout=_TIMEOUT, trust_env=False)
            ),
        )
