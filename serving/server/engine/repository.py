"""Reads the model repository for the server: as serving.model_repository does, but with the server's own errors."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelFile, ModelNameError, ModelRepositoryError
from hangtag.serving.server.errors import NotFoundError, RepositoryError
from hangtag.serving.server.host.watched_files import FolderStamp, folder_stamp

ROUTE_VERSION = "1"
"""A route has one version; the models of its members have theirs."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _with_server_errors(read: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Map ModelNameError to NotFoundError, and every other ModelRepositoryError to RepositoryError."""

    @functools.wraps(read)
    def mapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return read(*args, **kwargs)
        except ModelNameError as error:
            raise NotFoundError(str(error)) from error
        except ModelRepositoryError as error:
            raise RepositoryError(str(error)) from error

    return mapped


names = _with_server_errors(model_repository.names)
versions = _with_server_errors(model_repository.versions)
numbered_versions = _with_server_errors(model_repository.numbered_versions)
require_names = _with_server_errors(model_repository.require_names)
require_versions = _with_server_errors(model_repository.require_versions)
require_inside = _with_server_errors(model_repository.require_inside)


def stamp(file: ModelFile) -> FolderStamp:
    """Identify all files that loading this version may read: the model's settings, and whatever is in its folder.

    The model may have its weights in files of their own there, and which ones only a whole model.onnx says.
    """
    return folder_stamp(file.path.parent, file.settings)


def published(models: Path) -> list[tuple[str, str]]:
    """List each model and route with its version that is to serve, by name; leave out what cannot be read."""
    listed: list[tuple[str, str]] = []
    with contextlib.suppress(RepositoryError):
        for name in names(models):
            with contextlib.suppress(RepositoryError):
                if model_repository.is_route(models, name):
                    listed.append((name, ROUTE_VERSION))
                else:
                    listed += [(file.name, str(file.version)) for file in versions(models, name)[:1]]
    return listed
