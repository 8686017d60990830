"""The servers under load: one on the native transport, and one on grpcio's with TLS, over one model repository."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from hangtag.serving.model_repository import serving_versions
from studies.server.peers.tls import with_tls
from studies.server.process import Served, hangtag_serve, served
from studies.soak.answers import ACCURATE, FAST, MODELS, ROUTE, SHADOWED
from studies.soak.connections import Address
from studies.soak.situation import SPLIT, STICKY

WORKERS = 2
CONNECTION_AGE_SECONDS = 60
"""After which the server with TLS makes its clients connect anew; the native transport cannot."""
_POLL_SECONDS = 2
_ROUTES = {
    SPLIT: f'split = {{{FAST} = 50, {ACCURATE} = 50}}\nsticky = "{STICKY}"\n',
    SHADOWED: f'split = {{{FAST} = 100}}\nshadow = {{model = "{ACCURATE}", share = 0.5}}\n',
}
"""The route.toml of each route that no shipped repository has."""


@dataclass(frozen=True)
class Server:
    """A server of the study.

    Args:
        name: Its transport, for a reader.
        process: The server itself.
        explicit: Whether it loads a new version when a client says so, and not because it polls the repository.
    """

    name: str
    process: Served
    explicit: bool

    @property
    def address(self) -> Address:
        ca = self.process.ca
        return Address(self.name, self.process.address, self.process.http, None if ca is None else str(ca))


@contextmanager
def repository(models: Path) -> Iterator[Path]:
    """A copy of what is called: the versions of MODELS that serve, ROUTE, a split and a route with a shadow.

    Raises:
        click.ClickException: One of them is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "models")
        files = {file.name: file for file in serving_versions(models)}
        for model in MODELS:
            if model not in files:
                raise click.ClickException(f"{models} has no {model}, which this study calls.")
            shutil.copytree(files[model].path.parent, folder / model / str(files[model].version))
        if not (models / ROUTE).is_dir():
            raise click.ClickException(f"{models} has no {ROUTE}, which this study calls.")
        shutil.copytree(models / ROUTE, folder / ROUTE)
        for route, text in _ROUTES.items():
            (folder / route).mkdir()
            (folder / route / "route.toml").write_text(text)
        yield folder


@contextmanager
def servers(models: Path) -> Iterator[Sequence[Server]]:
    """Run them for the time of the context.

    Raises:
        click.ClickException: One does not start, or did not stop as it should.
    """
    shared = ("--workers", str(WORKERS))
    poll = ("--model-control", "poll", "--poll-seconds", str(_POLL_SECONDS))
    explicit = ("--model-control", "explicit", "--load-model", "*")
    age = ("--connection-age-seconds", str(CONNECTION_AGE_SECONDS))
    with ExitStack() as stack:
        native = stack.enter_context(served(hangtag_serve(models, "--transport", "native", *shared, *poll)))
        launch = stack.enter_context(with_tls(models, *shared, *explicit, *age))
        tls = stack.enter_context(served(launch))
        yield Server("native", native, explicit=False), Server("grpc with TLS", tls, explicit=True)
