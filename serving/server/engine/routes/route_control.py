"""Decides which routes serve, after each change of the models and of the routes' files."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from hangtag.serving.model_repository import ROUTE_FILE, is_route
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.repository import ROUTE_VERSION
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.engine.routes.route_file import Member, RouteSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import NotFoundError, RepositoryError, StartError, UnavailableError
from hangtag.serving.server.host.watched_files import Stamp, stamp_of
from hangtag.serving.server.telemetry.server_state import UNAVAILABLE, VersionState

log = structlog.get_logger()


class RouteControl:
    """Serves routes while all their members serve. For one thread at a time."""

    def __init__(self, engine: Engine, models: Path, retire: Callable[[list[Servable]], None]) -> None:
        """Serve nothing yet.

        Args:
            engine: Has the members, and gets the routes.
            models: The model repository.
            retire: Closes the models of a name that has become a route's.
        """
        self.problems: dict[str, str] = {}
        """Why a route does not serve, or why its file, which was changed, is not followed; by name."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Number of times by route and outcome that it was loaded ("ok"), or that a new problem was found ("error")."""
        self._engine = engine
        self._models = models
        self._retire = retire
        self._wanted: set[str] = set()
        self._unused: set[str] = set()  # names with a route.toml that is not followed
        self._served: dict[str, tuple[RouteSettings, tuple[Servable, ...]]] = {}
        self._read: dict[str, tuple[Stamp, RouteSettings]] = {}

    def is_route(self, name: str) -> bool:
        """Whether the repository has a route of this name."""
        return is_route(self._models, name)

    def among(self, names: Iterable[str]) -> set[str]:
        """Return which of these names are routes; a route.toml beside a model's versions is logged, once."""
        files = {name for name in names if (self._models / name / ROUTE_FILE).is_file()}
        routes = {name for name in files if self.is_route(name)}
        for name in sorted(files - routes - self._unused):
            reason = "the folder has versions, so the name is a model's; a route needs a folder of its own"
            log.warning(f"{ROUTE_FILE} not followed", model=name, reason=reason)
        self._unused = files - routes
        return routes

    def want(self, names: Iterable[str]) -> None:
        """Serve these routes from the next ``refresh`` on, as their files are now, and no others."""
        self._wanted = set(names)
        self._read = {name: known for name, known in self._read.items() if known[0] == self._stamp(name)}

    def add(self, names: Iterable[str]) -> None:
        """Serve these routes too from the next ``refresh`` on, as their files are now."""
        for name in names:
            self._read.pop(name, None)
            self._wanted.add(name)

    def wants(self, name: str) -> bool:
        """Whether this is a route that serves, or will as soon as its members do."""
        return name in self._wanted

    def load(self, name: str) -> None:
        """Serve one route more, as its file is now. Raises StartError, and changes nothing, if it cannot serve."""
        self.add([name])
        self.refresh()
        if name in self.problems:
            if name not in self._served:
                self._wanted.discard(name)
            raise RepositoryError(self.problems[name])

    def drop(self, name: str) -> None:
        """Forget a route that was taken out of the engine's table, or whose name is a model's now."""
        self._wanted.discard(name)
        self._served.pop(name, None)

    def refresh(self) -> None:
        """Serve the routes whose files are valid and whose members serve, and take the others out."""
        problems: dict[str, str] = {}
        done: dict[str, Servable | None] = {}
        for name in sorted(self._wanted):
            self._resolve(name, (), done, problems)
        for name in [name for name in self._served if done.get(name) is None]:
            del self._served[name]
            if self._route(name) is not None:
                self._engine.serve(name, [])
            log.warning("route taken out", model=name, reason=problems.get(name, "it was removed"))
        for name, problem in problems.items():
            if self.problems.get(name) != problem:
                log.warning("route not loaded", model=name, reason=problem)
                self.outcomes[name, "error"] += 1
        self.problems = problems

    def states(self) -> list[VersionState]:
        """Return the routes that should serve and do not."""
        return [
            VersionState(name, ROUTE_VERSION, UNAVAILABLE, problem)
            for name, problem in self.problems.items()
            if name not in self._served
        ]

    def reason(self, name: str) -> str:
        """Why a route does not serve; empty where there is no such route, or it serves."""
        return "" if name in self._served else self.problems.get(name, "").removeprefix(f"route {name}: ")

    def _resolve(
        self, name: str, above: tuple[str, ...], done: dict[str, Servable | None], problems: dict[str, str]
    ) -> Servable | None:
        """Serve a route and those that it needs; None, with the reason among the problems, if it cannot serve.

        Args:
            name: The route's.
            above: The routes that need it, the outermost first.
            done: The routes that were resolved before.
            problems: Gets the reasons.
        """
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise RepositoryError(f"routes must not lead to themselves: {circle}")
        if name not in done:
            done[name] = None
            try:
                done[name] = self._follow(name, above, done, problems)
            except StartError as error:
                problems[name] = f"route {name}: {error}"
        return done[name]

    def _follow(
        self, name: str, above: tuple[str, ...], done: dict[str, Servable | None], problems: dict[str, str]
    ) -> Servable:
        """Serve a route as its file says; where that cannot be, as it said before. The arguments: see `_resolve`."""
        try:
            return self._serve(name, self._settings(name), above, done, problems)
        except StartError as error:
            if name not in self._served:
                raise
            problem = f"route {name}: {error}"
        route = self._serve(name, self._served[name][0], above, done, problems)
        problems[name] = problem
        return route

    def _serve(
        self,
        name: str,
        settings: RouteSettings,
        above: tuple[str, ...],
        done: dict[str, Servable | None],
        problems: dict[str, str],
    ) -> Servable:
        members = {member: self._serving(member, (*above, name), done, problems) for member in settings.members}
        if settings.shadow is not None:
            try:
                members[settings.shadow.member] = self._serving(settings.shadow.member, (*above, name), done, problems)
            except StartError as error:
                if name not in self._served:
                    raise
                problems[name] = f"route {name} goes on without its shadow: {error}"
        key = (settings, tuple(members.values()))
        before = self._route(name)
        if before is not None and self._served.get(name) == key:
            return before

        def look_up(member: Member) -> Servable:
            try:
                return self._engine.model(member.name, member.version)
            except NotFoundError as error:
                raise UnavailableError(f"the member {member} of route {name} does not serve now") from error

        route = ServedRoute(name, settings, members, look_up, before)
        replaced = self._engine.serve(name, [route])
        self._retire([model for model in replaced if not isinstance(model, ServedRoute)])
        if before is not None:
            before.close()
        self._served[name] = key
        self.outcomes[name, "ok"] += 1
        log.info("route loaded", model=name, **route.parameters())
        return route

    def _route(self, name: str) -> ServedRoute | None:
        """What the engine serves under this name, if that is a route."""
        return next((each for each in self._engine.versions(name) if isinstance(each, ServedRoute)), None)

    def _serving(
        self, member: Member, above: tuple[str, ...], done: dict[str, Servable | None], problems: dict[str, str]
    ) -> Servable:
        """Return what serves a member. Raises RepositoryError if nothing does. The other arguments: see `_resolve`."""
        if not self.is_route(member.name):
            return self._model(member)
        route = self._resolve(member.name, above, done, problems)
        if route is None:
            raise RepositoryError(f"its member {member} does not serve: {problems[member.name]}")
        if member.version not in ("", ROUTE_VERSION):
            raise RepositoryError(f"its member {member} does not serve; a route has version {ROUTE_VERSION} alone")
        return route

    def _settings(self, name: str) -> RouteSettings:
        """What the route's file said when it was read first, or after ``want`` and ``load`` found it changed."""
        if name not in self._read:
            stamp = self._stamp(name)  # before the file is read, so that a later change is noticed
            self._read[name] = (stamp, route_file.read(self._models / name / ROUTE_FILE))
        return self._read[name][1]

    def _stamp(self, name: str) -> Stamp:
        return stamp_of(self._models / name / ROUTE_FILE)

    def _model(self, member: Member) -> Servable:
        versions = self._engine.versions(member.name)
        for model in versions:
            if member.version in ("", model.version):
                return model
        published = {str(file.version) for file in repository.versions(self._models, member.name)}
        if not versions and not published:
            there = ", ".join(name for name, _ in repository.published(self._models))
            raise RepositoryError(
                f"its member {member} does not serve: the repository has no model of this name; it has {there}"
            )
        served = ", ".join(f"{each.name}@{each.version}" for each in versions) or "none of its versions"
        remedy = ""
        if versions and member.version in published:
            remedy = " ('hangtag serve --num-versions' serves more than one)"
        elif published and not versions:
            remedy = f" (with --model-control explicit, load it first: 'hangtag models load {member.name}')"
        raise RepositoryError(f"its member {member} does not serve; of {member.name}: {served}{remedy}")
