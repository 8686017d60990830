"""Reads and writes model repositories in registries of container images: oci://REGISTRY/REPOSITORY:TAG.

A tag is an OCI artifact: a manifest whose layers are the repository's files. The title of each layer is the file's
path, as 'oras push' writes it. The manifest is the index, so a push becomes visible as a whole. The registry names each
file by the file's SHA-256, and the manifest's digest is its ETag. obstore reads files as from a web server. httpx2
signs in and pushes, because obstore cannot send a POST.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from hangtag.serving.stores.location import CredentialsError, StoreError, explained, object_store, shown
from hangtag.serving.stores.snapshot import NoIndexError, Snapshot, Store, StoredFile

_URL = re.compile(r"oci://([\w.-]+(?::\d+)?)/([a-z0-9._/-]+)(?:[:@]([\w.:-]+))?")
_HUB = "docker.io"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_FILE = "application/octet-stream"
_TITLE = "org.opencontainers.image.title"
_NO_CONFIG = b"{}"  # the empty config that OCI's specification of images defines
_FILE_SECONDS = 600.0
"""The time limit of a request, because a registry may check and copy a large file before it answers."""
_HELPER_SECONDS = 30

T = TypeVar("T")


class Registry(Store):
    """A tag of a repository in a registry. A registry on this machine is called without TLS, as docker does."""

    def __init__(self, url: str, silent_seconds: float) -> None:
        """Open oci://REGISTRY/REPOSITORY with :TAG (by default :latest) or @DIGEST. See ``object_store``."""
        match = _URL.fullmatch(url)
        if match is None:
            raise StoreError(f"{shown(url)} is not a model store: expected oci://REGISTRY/REPOSITORY:TAG")
        host, repository, tag = match.groups()
        scheme = "http" if re.fullmatch(r"(localhost|127\.[\d.]+)(:\d+)?", host) else "https"
        self._base = f"{scheme}://{'registry-1.docker.io' if host == _HUB else host}/v2/{repository}"
        self._sign_in = _SignIn(host, self._base)
        self._tag = tag or "latest"
        super().__init__(url, silent_seconds)
        self.index = f"manifests/{self._tag}"

    def read(self) -> Snapshot:
        """Read the manifest if it has changed. HEAD shows whether it has, because a HEAD does not count as a pull."""
        return self._signed_in(self._read)

    def fetch(self, file: StoredFile, target: Path) -> None:
        self._signed_in(lambda: super(Registry, self).fetch(file, target))

    def write(self, file: StoredFile, source: Path) -> None:
        with explained(self.url), source.open("rb") as opened:
            self._write_blob(file.sha256, opened)

    def publish(self, files: Sequence[StoredFile], before: Snapshot) -> int:
        """Write the manifest. A registry cannot refuse the manifest if the content is no longer ``before``."""
        nothing = hashlib.sha256(_NO_CONFIG).hexdigest()
        layers = [_blob(_FILE, file.sha256, file.size) | {"annotations": {_TITLE: file.path}} for file in files]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": "application/vnd.hangtag.models",
            "config": _blob("application/vnd.oci.empty.v1+json", nothing, len(_NO_CONFIG)),
            "layers": layers,
        }
        content = json.dumps(manifest).encode()
        with explained(self.url):
            self._write_blob(nothing, _NO_CONFIG)
            self._send("PUT", f"{self._base}/{self.index}", content, _MANIFEST).raise_for_status()
        return len(content)

    def _connect(self) -> Any:
        return object_store(self._base, self._silent_seconds, {"Accept": _MANIFEST, **self._sign_in.header})

    def _key(self, file: StoredFile) -> str:
        return f"blobs/sha256:{file.sha256}"

    def _signed_in(self, call: Callable[[], T]) -> T:
        """Make a call. If the registry demands credentials, or a token has expired, sign in and call again."""
        try:
            return call()
        except CredentialsError:
            with explained(self.url):
                self._send("HEAD", f"{self._base}/{self.index}")
            self.opened = self._connect()
        return call()

    def _read(self) -> Snapshot:
        import obstore

        if self._last_tag is not None:
            with explained(self.url):
                if obstore.head(self.opened, self.index)["e_tag"] == self._last_tag:
                    return self._last
        return super().read()

    def _list(self) -> Snapshot:
        raise NoIndexError(f"{self.name}: there is no such tag. 'hangtag models push' writes a tag")

    def _listed(self, content: bytes, tag: str) -> list[StoredFile]:
        digest = self._tag if ":" in self._tag else tag.strip('"')
        if digest.startswith("sha256:") and digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise StoreError(f"{self.name}: the manifest does not match its digest")
        files = []
        for layer in json.loads(content)["layers"]:
            path = (layer.get("annotations") or {}).get(_TITLE, "")
            files.append(StoredFile(str(path), int(layer["size"]), layer["digest"].removeprefix("sha256:")))
        return files

    def _write_blob(self, sha256: str, content: Any) -> None:
        if self._send("HEAD", f"{self._base}/blobs/sha256:{sha256}").is_success:
            return  # the registry already has the content, under another path or another tag
        begun = self._send("POST", f"{self._base}/blobs/uploads/").raise_for_status()
        place = begun.url.join(begun.headers["Location"]).copy_merge_params({"digest": f"sha256:{sha256}"})
        self._send("PUT", place, content).raise_for_status()

    def _send(self, method: str, url: Any, content: Any = None, kind: str = _FILE) -> httpx2.Response:
        headers = {"Accept": _MANIFEST, "Content-Type": kind}
        timeout = httpx2.Timeout(self._silent_seconds, read=_FILE_SECONDS if content else self._silent_seconds)
        return httpx2.request(method, url, auth=self._sign_in, headers=headers, content=content, timeout=timeout)


class _SignIn(httpx2.Auth):
    """Answers a registry's demand for credentials, and stores the header that the registry accepts.

    Credentials are sent only to the registry and to the token server that the registry names. If the registry has TLS,
    the token server must have TLS.
    """

    requires_response_body = True

    def __init__(self, host: str, base: str) -> None:
        self._host = host
        self._server = httpx2.URL(base).netloc
        self.header: dict[str, str] = {}

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        if request.url.netloc != self._server:  # the URL of an upload may be on another server
            yield request
            return
        request.headers.update(self.header)
        refused = yield request
        if refused.status_code != 401:
            return
        scheme, _, fields = refused.headers.get("WWW-Authenticate", "").partition(" ")
        login = _credentials(self._host)
        header = {"Authorization": f"Basic {login}"} if login else {}
        if scheme.lower() == "bearer":
            demand = dict(re.findall(r'(\w+)="([^"]*)"', fields))
            realm = demand.get("realm", "")
            if not realm.startswith(("https://", f"{request.url.scheme}://")):
                return
            parameters = {key: demand[key] for key in ("service", "scope") if key in demand}
            answer = yield httpx2.Request("GET", realm, params=parameters, headers=header)
            token = answer.json() if answer.is_success else {}
            header = {"Authorization": f"Bearer {token.get('token') or token['access_token']}"} if token else {}
        if header:
            self.header = header
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


def _blob(media_type: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}
