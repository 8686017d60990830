"""Opens the connections to a server, and holds everything else that calls need."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Self

import grpc
import httpx2

from hangtag.serving.client import AsyncClient
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.credentials import Credentials
from studies.soak.answers import MODELS, Answers, WrongAnswerError
from studies.stubs import InferenceStub

SPLIT, STICKY = "split-by-caller", "x-user-id"
"""A route that splits its callers equally between MODELS, and the metadata key that identifies a caller."""
_CALLERS = 200
_TIMEOUT = 15.0
"""The time limit of a call in seconds, which is much longer than an answer should take."""


@dataclass(frozen=True)
class Address:
    """The addresses of a server.

    Args:
        name: The server's name in the results.
        grpc: The address of the gRPC port, host:port.
        http: The address of the HTTP port, host:port.
        ca: The PEM file of the authority that signed the server's certificate; None without TLS.
    """

    name: str
    grpc: str
    http: str
    ca: Path | None = None

    @property
    def url(self) -> str:
        """http://host:port, or https://host:port."""
        return f"{'http' if self.ca is None else 'https'}://{self.http}"

    @property
    def credentials(self) -> Credentials:
        return Credentials() if self.ca is None else Credentials(tls_ca=self.ca)

    def client(self, *, http: bool = False) -> AsyncClient:
        """Return a client with its own connection. It makes no retries, so that every failure is visible."""
        address, options = self.url if http else self.grpc, ConnectionOptions(retries=0)
        return AsyncClient(address, timeout=_TIMEOUT, credentials=self.credentials, options=options)


@dataclass(frozen=True)
class Situation:
    """Connections to a server for the whole load, and everything else that calls need.

    Args:
        address: The server's address.
        over_grpc, over_http: Clients of hangtag.
        stub, http: Clients of gRPC and of HTTP without hangtag's code.
        answers: The images, and the right answer to each image.
        random: Chooses the images.
        members: The member of SPLIT that answered each caller. A caller must always get the same member, on every
            server.
    """

    address: Address
    over_grpc: AsyncClient
    over_http: AsyncClient
    stub: InferenceStub
    http: httpx2.AsyncClient
    answers: Answers
    random: Random
    members: dict[str, str]

    @classmethod
    async def open(
        cls, address: Address, stack: AsyncExitStack, answers: Answers, chooser: Random, members: dict[str, str]
    ) -> Self:
        """Open the connections. The exit stack closes them later."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        if credentials := address.credentials.channel_credentials():
            channel = grpc.aio.secure_channel(address.grpc, credentials, own)
        else:
            channel = grpc.aio.insecure_channel(address.grpc, own)
        verify = address.credentials.ssl_context(address.url) or True
        bare = httpx2.AsyncClient(base_url=address.url, verify=verify, timeout=_TIMEOUT, trust_env=False)
        return cls(
            address,
            await stack.enter_async_context(address.client()),
            await stack.enter_async_context(address.client(http=True)),
            InferenceStub(await stack.enter_async_context(channel)),
            await stack.enter_async_context(bare),
            answers,
            chooser,
            members,
        )

    def image(self, count: int = 1) -> int:
        """Return the index of a random image after which at least count - 1 more images follow."""
        return self.random.randrange(len(self.answers.images) - count + 1)

    def client(self) -> AsyncClient:
        """Return one of the two clients at random."""
        return self.random.choice((self.over_grpc, self.over_http))

    def caller(self) -> str:
        """Return the STICKY value of a random caller of SPLIT."""
        return f"caller-{self.random.randrange(_CALLERS)}"

    def check_member(self, caller: str, member: str) -> None:
        """Check that this member may answer this caller.

        Raises:
            WrongAnswerError: If the split has no such member, or if another member answered this caller before.
        """
        if member not in MODELS:
            raise WrongAnswerError(f"{SPLIT} says that {member or 'nobody'} answered")
        if member != (before := self.members.setdefault(caller, member)):
            raise WrongAnswerError(f"{SPLIT} sent {caller} to {before} first, and to {member} now")
