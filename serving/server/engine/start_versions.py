"""Chooses the models and versions that a server starts with: those of its repository, or those that others serve."""

from collections.abc import Mapping

import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import repository
from hangtag.serving.server.errors import RepositoryError

log = structlog.get_logger()


class StartVersions:
    """What to load at the start.

    A worker that replaces another starts with what the other workers serve. The repository may have changed since they
    read it: a folder may be unfinished, a version may end each process that loads it, and a caller must not get another
    answer from this worker than from the others.
    """

    def __init__(self, config: ServerConfig, served: Mapping[str, tuple[int, ...]]) -> None:
        """served: the versions that the other workers serve, by model or route; empty where there are no others."""
        self._config = config
        self.served = served

    def names(self) -> list[str]:
        """List the models and routes to start with.

        Raises:
            RepositoryError: There is no model repository, or nothing in it.
        """
        if self._config.model_control == "explicit" and "*" not in self._config.load_model:
            return sorted(set(self._config.load_model))
        present = repository.require_names(self._config.models)
        gone = sorted(self.served.keys() - present)
        if gone:
            log.warning("models gone from the repository; only the other workers serve them", gone=gone)
        return [name for name in present if not self.served or name in self.served]

    def files(self, name: str) -> list[ModelFile]:
        """List the versions of a model to load, first the one that is to serve, then the latest.

        Returns:
            Empty only for a model that other workers serve, and of which the repository has no version any more.

        Raises:
            NotFoundError: The text cannot be a model's name.
            RepositoryError: No other worker serves the model, and the repository lacks it or has no version of it.
        """
        models, served = self._config.models, self.served.get(name)
        if served is None:
            return repository.require_versions(models, name)
        try:
            files = repository.versions(models, name)
        except RepositoryError as error:  # for example of its promoted.toml, without which the other workers go on
            log.warning("model not readable; its versions that the other workers serve", model=name, reason=str(error))
            files = repository.numbered_versions(models / name)
        chosen = [file for file in files if file.version in served]
        if not chosen:
            others = "others are loaded" if files else "only the other workers serve them"
            log.warning(f"versions gone from the repository; {others}", model=name, gone=served)
        return chosen or files
