"""Reads and writes model repositories in registries of container images: oci://REGISTRY/REPOSITORY:TAG.

A tag is an OCI artifact: a manifest whose layers are the repository's files. The title of each layer is the file's
path, as 'oras push' writes it. The manifest is the index, so a push becomes visible as a whole. The registry names each
file by the file's SHA-256.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from hangtag.serving.stores.store import CHUNK, LARGEST_INDEX, Store, StoredFile
from hangtag.serving.stores.store_errors import StoreError

_URL = re.compile(r"oci://([\w.-]+(?::\d+)?)/([a-z0-9._/-]+)(?:[:@]([\w.:-]+))?")
_HUB = "docker.io"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_FILE = "application/octet-stream"
_TITLE = "org.opencontainers.image.title"
_NO_CONFIG = b"{}"  # the empty config that OCI's specification of images defines
_FILE_SECONDS = 600.0
"""The time limit of an upload, because a registry may check and copy a large file before it answers."""
_HELPER_SECONDS = 30


class Registry(Store):
    """A tag of a repository in a registry. A registry on this machine is called without TLS, as docker does."""

    def _open(self, url: str, silent_seconds: float) -> httpx2.Client:
        """Open oci://REGISTRY/REPOSITORY with :TAG (by default :latest) or @DIGEST."""
        match = _URL.fullmatch(url)
        if match is None:
            raise StoreError(f"{self.name} is not a model store: expected oci://REGISTRY/REPOSITORY:TAG")
        host, repository, tag = match.groups()
        self._reference = tag or "latest"
        self.index = f"manifests/{self._reference}"
        scheme = "http" if re.fullmatch(r"(localhost|127\.[\d.]+)(:\d+)?", host) else "https"
        server = httpx2.URL(f"{scheme}://{'registry-1.docker.io' if host == _HUB else host}")
        return httpx2.Client(
            auth=_SignIn(host, server),
            base_url=server.join(f"/v2/{repository}/"),
            headers={"Accept": _MANIFEST, "Accept-Encoding": "identity"},
            follow_redirects=True,
            limits=httpx2.Limits(max_keepalive_connections=0),  # a server would close a connection between two polls
            timeout=silent_seconds,
        )

    def read(self) -> None:
        """Read the manifest if it has changed. A HEAD request finds out, because registries do not count it as a
        pull."""
        head = self._opened.head(self.index)
        if head.status_code == 404:  # there is no such tag
            self.files = {}
            return
        digest = head.raise_for_status().headers.get("Docker-Content-Digest", "")
        if digest and digest == self._tag:
            return
        with self._opened.stream("GET", self.index) as answer:
            content = next(answer.raise_for_status().iter_raw(LARGEST_INDEX + 1), b"")
        expected = self._reference if ":" in self._reference else digest
        if expected.startswith("sha256:") and expected != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise StoreError(f"{self.name}: the manifest does not match its digest")
        self._parse(content)
        self._tag = digest

    def write(self, file: StoredFile, source: Path) -> None:
        with source.open("rb") as opened:
            self._write_blob(file.tag, opened)

    def publish(self, files: Iterable[StoredFile]) -> int:
        """Write the manifest. The registry accepts the manifest even if another push has changed the tag in the
        meantime."""
        config = StoredFile("", len(_NO_CONFIG), f"sha256:{hashlib.sha256(_NO_CONFIG).hexdigest()}")
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": "application/vnd.hangtag.models",
            "config": _blob("application/vnd.oci.empty.v1+json", config),
            "layers": [_blob(_FILE, file) | {"annotations": {_TITLE: file.path}} for file in files],
        }
        content = json.dumps(manifest).encode()
        self._write_blob(config.tag, _NO_CONFIG)
        self._opened.put(self.index, content=content, headers={"Content-Type": _MANIFEST}).raise_for_status()
        return len(content)

    def _chunks(self, file: StoredFile) -> Iterator[bytes]:
        with self._opened.stream("GET", f"blobs/{file.tag}") as answer:
            yield from answer.raise_for_status().iter_raw(CHUNK)

    def _listed(self, document: Any) -> Iterator[StoredFile]:
        for layer in document["layers"]:
            path = (layer.get("annotations") or {}).get(_TITLE, "")
            yield StoredFile(str(path), int(layer["size"]), str(layer["digest"]))

    def _write_blob(self, digest: str, content: Any) -> None:
        if self._opened.head(f"blobs/{digest}").is_success:
            return  # the registry already has the content, under another path or another tag
        begun = self._opened.post("blobs/uploads/").raise_for_status()
        place = begun.url.join(begun.headers["Location"]).copy_merge_params({"digest": digest})
        headers = {"Content-Type": _FILE}
        self._opened.put(place, content=content, headers=headers, timeout=_FILE_SECONDS).raise_for_status()


class _SignIn(httpx2.Auth):
    """Answers a registry's authentication challenge, and keeps the header that the registry accepts.

    Credentials are sent only to the registry and to the token server that the registry names. If the registry has TLS,
    the token server must have TLS.
    """

    def __init__(self, host: str, server: httpx2.URL) -> None:
        self._host = host
        self._server = server
        self._header: dict[str, str] = {}

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        if request.url.netloc != self._server.netloc:  # the URL of an upload may be on another server
            yield request
            return
        request.headers.update(self._header)
        refused = yield request
        if refused.status_code != 401:
            return
        scheme, _, fields = refused.headers.get("WWW-Authenticate", "").partition(" ")
        login = _credentials(self._host)
        header = {"Authorization": f"Basic {login}"} if login else {}
        if scheme.lower() == "bearer":
            demand = dict(re.findall(r'(\w+)="([^"]*)"', fields))
            realm = demand.get("realm", "")
            if not realm.startswith(("https://", f"{self._server.scheme}://")):
                return
            parameters = {key: demand[key] for key in ("service", "scope") if key in demand}
            answer = yield httpx2.Request("GET", realm, params=parameters, headers=header)
            token = json.loads(answer.read()) if answer.is_success else {}
            header = {"Authorization": f"Bearer {token.get('token') or token['access_token']}"} if token else {}
        if header:
            self._header = header
            request.headers.update(header)
            yield request


def _credentials(host: str) -> str:
    """Read USER:PASSWORD for a registry in base64 from docker's configuration; empty if there is none.

    Raises StoreError.
    """
    file = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"
    key = "https://index.docker.io/v1/" if host == _HUB else host
    try:
        config = json.loads(file.read_text()) if file.exists() else {}
        login = config.get("auths", {}).get(key, {}).get("auth")
        helper = config.get("credHelpers", {}).get(key) or config.get("credsStore")
        if login or not helper:
            return str(login or "")
        command = [f"docker-credential-{helper}", "get"]
        answer = subprocess.run(command, input=key.encode(), capture_output=True, timeout=_HELPER_SECONDS)
        if answer.returncode:
            return ""  # docker's configuration has no credentials for this registry
        entry = json.loads(answer.stdout)
        return base64.b64encode(f"{entry['Username']}:{entry['Secret']}".encode()).decode()
    except (AttributeError, KeyError, ValueError, OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"the credentials in {file} cannot be read ({type(error).__name__})") from None


def _blob(media_type: str, file: StoredFile) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": file.tag, "size": file.size}
