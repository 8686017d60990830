"""Decides which routes serve, after each change of the models and of the routes' files."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hangtag.serving.model_repository import ROUTE_FILE, is_route
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.repository import ROUTE_VERSION
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.engine.routes.members import load_first, model_of, require_one_signature
from hangtag.serving.server.engine.routes.route_file import Member, RouteSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import NotFoundError, RepositoryError, StartError, UnavailableError
from hangtag.serving.server.host.watched_files import Stamp, stamp_of
from hangtag.serving.server.telemetry.server_state import UNAVAILABLE, VersionState

log = structlog.get_logger()


@dataclass
class _Found:
    """What a refresh has found out so far: the routes that it resolved, None for one that cannot serve, and why."""

    routes: dict[str, Servable | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "_Found":
        """For an attempt, of which nothing may be left where it fails."""
        return _Found(dict(self.routes), dict(self.problems))

    def take(self, attempt: "_Found") -> None:
        """Keep what an attempt has found."""
        self.routes, self.problems = attempt.routes, attempt.problems


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
        self._unloaded: set[str] = set()  # routes that were dropped, and serve no other route either
        self._unused: set[str] = set()  # names with a route.toml that is not followed
        self._served: dict[str, tuple[RouteSettings, tuple[Servable, ...], Servable | None]] = {}
        self._read: dict[str, tuple[Stamp, RouteSettings]] = {}

    def is_route(self, name: str) -> bool:
        """Whether the repository has a route of this name."""
        return is_route(self._models, name)

    def among(self, names: Iterable[str]) -> set[str]:
        """Return which of these names are routes, those included that serve and whose folders cannot be read now.

        A route.toml beside a model's versions is logged, once.
        """
        files, unreadable = set(), set()
        for name in names:
            try:
                if (self._models / name / ROUTE_FILE).is_file():
                    files.add(name)
            except OSError:
                unreadable.add(name)
        routes = {name for name in files if self.is_route(name)} | (unreadable & self._wanted)
        for name in sorted(files - routes - self._unused):
            reason = "the folder has versions, so the name is a model's; a route needs a folder of its own"
            log.warning(f"{ROUTE_FILE} not followed", model=name, reason=reason)
        self._unused = files - routes
        return routes

    def want(self, names: Iterable[str]) -> None:
        """Serve these routes from the next ``refresh`` on, as their files are now, and no others."""
        self._wanted, self._unloaded = set(names), set()
        known = self._read.items()
        self._read = {name: read for name, read in known if read[0] == stamp_of(self._models / name / ROUTE_FILE)}

    def add(self, names: Iterable[str]) -> None:
        """Serve these routes too from the next ``refresh`` on, as their files are now."""
        for name in names:
            self._read.pop(name, None)
            self._wanted.add(name)
            self._unloaded.discard(name)

    def wants(self, name: str) -> bool:
        """Whether this is a route that serves, or will as soon as its members do."""
        return name in self._wanted

    def load(self, name: str) -> None:
        """Serve a route too, with or without its shadow. Raises StartError, and changes nothing, if it cannot serve."""
        self.add([name])
        self.refresh()
        served, read = self._served.get(name), self._read.get(name)
        if served is None:
            self._wanted.discard(name)
        if served is None or read is None or served[0] != read[1]:
            raise RepositoryError(self.problems[name])

    def drop(self, name: str) -> None:
        """Forget a route that was taken out of the engine's table, or whose name is a model's now."""
        self._wanted.discard(name)
        self._unloaded.add(name)
        self._served.pop(name, None)

    def refresh(self) -> None:
        """Serve the routes whose files are valid and whose members serve, and take the others out."""
        found = _Found()
        for name in sorted(self._wanted):
            self._resolve(name, (), found)
        for name in [name for name in self._served if found.routes.get(name) is None]:
            del self._served[name]
            if (route := self._route(name)) is not None:
                self._engine.serve(name, [])
                route.close()
            log.warning("route taken out", model=name, reason=found.problems.get(name, "it was removed"))
        for name, problem in found.problems.items():
            if self.problems.get(name) != problem:
                event = "route serves, but not as its file says" if found.routes.get(name) else "route not loaded"
                log.warning(event, model=name, reason=problem)
                self.outcomes[name, "error"] += 1
        self.problems = found.problems

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

    def _resolve(self, name: str, above: tuple[str, ...], found: _Found) -> Servable | None:
        """Serve a route and those that it needs; None, with the reason among the problems, if it cannot serve.

        Args:
            name: The route's.
            above: The routes that need it, the outermost first.
            found: Gets the result.
        """
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise RepositoryError(f"routes must not lead to themselves: {circle}")
        if name not in found.routes:
            found.routes[name] = None
            try:
                found.routes[name] = self._follow(name, above, found)
            except StartError as error:
                found.problems[name] = f"route {name}: {error}"
        return found.routes[name]

    def _follow(self, name: str, above: tuple[str, ...], found: _Found) -> Servable:
        """Serve a route as its file says; where that cannot be, as it said before. The arguments: see `_resolve`."""
        attempt = found.copy()  # a circle through the changed file must not take out the other routes in it
        try:
            route = self._serve(name, self._settings(name), above, attempt)
        except StartError as error:
            if name not in self._served:
                raise
            problem = f"route {name}: {error}"
        else:
            found.take(attempt)
            return route
        route = self._serve(name, self._served[name][0], above, found)
        found.problems[name] = problem
        return route

    def _serve(self, name: str, settings: RouteSettings, above: tuple[str, ...], found: _Found) -> Servable:
        above = (*above, name)
        members = {each: self._serving(f"its member {each}", each, above, found) for each in settings.members}
        shadow = self._shadow(name, settings, members, above, found)
        key = (settings, tuple(members.values()), shadow)
        before = self._route(name)
        if before is not None and self._served.get(name) == key:
            return before

        def look_up(member: Member) -> Servable:
            try:
                return self._engine.model(member.name, member.version)
            except NotFoundError as error:
                raise UnavailableError(f"the member {member} of route {name} does not serve now") from error

        route = ServedRoute(name, settings, members, shadow, look_up, self._engine.config.limits, before)
        replaced = self._engine.serve(name, [route])
        self._retire([model for model in replaced if not isinstance(model, ServedRoute)])
        if before is not None:
            before.close()
        self._served[name] = key
        self.outcomes[name, "ok"] += 1
        log.info("route loaded", model=name, **route.parameters())
        return route

    def _shadow(
        self,
        name: str,
        settings: RouteSettings,
        members: Mapping[Member, Servable],
        above: tuple[str, ...],
        found: _Found,
    ) -> Servable | None:
        """Return what serves the route's shadow; None where there is none.

        A shadow that the route had before, or a model that the repository has, takes no route out: where it does not
        serve, or has another signature, the route goes on without it, and that is a problem.

        Args:
            name: The route's.
            settings: Name the shadow.
            members: The route's.
            above: The routes that need the shadow, this one last.
            found: See `_resolve`.

        Raises:
            StartError: The shadow is not known.
        """
        if settings.shadow is None:
            return None
        member = settings.shadow.member
        attempt = found.copy()
        try:
            shadow = self._serving(f"its shadow {member}", member, above, attempt)
            require_one_signature({settings.members[0]: members[settings.members[0]], member: shadow})
        except StartError as error:
            if (served := self._served.get(name)) is None:
                is_known = bool(repository.versions(self._models, member.name))
            else:
                is_known = served[0].shadow is not None and served[0].shadow.member == member
            if not is_known:
                raise
            found.problems[name] = f"route {name} goes on without its shadow: {error}"
            return None
        found.take(attempt)
        return shadow

    def _route(self, name: str) -> ServedRoute | None:
        """What the engine serves under this name, if that is a route."""
        return next((each for each in self._engine.versions(name) if isinstance(each, ServedRoute)), None)

    def _serving(self, who: str, member: Member, above: tuple[str, ...], found: _Found) -> Servable:
        """Return what serves a member or a shadow.

        Args:
            who: It, for the message.
            member: Its name and version.
            above: See `_resolve`.
            found: Likewise.

        Raises:
            RepositoryError: Nothing serves it.
        """
        if not self.is_route(member.name):
            return model_of(member, who, self._engine.versions(member.name), self._models)
        if member.name in self._unloaded:
            raise RepositoryError(f"{who} does not serve{load_first(member.name)}")
        route = self._resolve(member.name, above, found)
        if route is None:
            raise RepositoryError(f"{who} does not serve: {found.problems[member.name]}")
        if member.version not in ("", ROUTE_VERSION):
            raise RepositoryError(f"{who} does not serve; a route has version {ROUTE_VERSION} alone")
        return route

    def _settings(self, name: str) -> RouteSettings:
        """What the route's file said when it was read first, or after ``want`` and ``load`` found it changed."""
        if name not in self._read:
            file = self._models / name / ROUTE_FILE
            self._read[name] = (stamp_of(file), route_file.read(file))  # in this order, to notice a later change
        return self._read[name][1]
