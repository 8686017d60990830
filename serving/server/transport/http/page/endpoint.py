"""Serves the page at / and its files under /page/. They are part of the package, and no request reads a disk."""

from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from hangtag.serving.server.transport.http.responses import Header, HttpResponse

_PREFIX = "/page/"
_STATIC = Path(__file__).parent / "static"
_INDEX = "index.html"
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
}
# A browser that keeps this policy runs nothing but the page's own files, sends nothing to anybody but this server, and
# never reads a text as HTML, whatever a model's file holds. blob: are the pictures that a person chooses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # The files belong to the server's version, so a browser asks for them each time.
    (b"cache-control", b"no-store"),
)


def is_of_page(path: str) -> bool:
    """Whether a path is the page's or one of its files'. These need no token, because a page has to be loaded before
    it can ask for one."""
    return path == "/" or path.startswith(_PREFIX)


class PageEndpoint:
    """Has the files in memory."""

    def __init__(self, grpc_port: Callable[[], int]) -> None:
        """Read the files.

        Args:
            grpc_port: Returns the port of gRPC, which the page's code for programs names. Called once the server
                listens.
        """
        self._grpc_port = grpc_port
        self._files = {
            path.relative_to(_STATIC).as_posix(): path.read_bytes() for path in _STATIC.rglob("*") if path.is_file()
        }

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/", self.page), Route(f"{_PREFIX}{{file:path}}", self.file)]

    async def page(self, _request: Request) -> HttpResponse:
        text = self._files[_INDEX].replace(b"{grpc_port}", str(self._grpc_port()).encode())
        return HttpResponse(text, _TYPES[".html"], headers=_HEADERS)

    async def file(self, request: Request) -> HttpResponse:
        name = request.path_params["file"]
        if name == _INDEX or name not in self._files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return HttpResponse(self._files[name], _TYPES[Path(name).suffix], headers=_HEADERS)
