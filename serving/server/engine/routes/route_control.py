"""Serves routes, or takes them out of service, after each change of the models and of the routes' files.

At each change, all routes are resolved from scratch before any route is updated. If a route's file cannot be applied, a
route that serves keeps its current settings, and a route that does not serve yet stays out of service. So a mistake in
one file does not take other routes out of service.
"""

from collections.abc import Iterable

import structlog

from hangtag.errors import UserError
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ROUTE_FILE, is_route
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.loading import LoadFailure, ModelLoader
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.engine.routes.route_file import ROUTE_VERSION, Member, RouteSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute, require_one_signature
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import StartError

log = structlog.get_logger()


class RouteControl:
    """Serves each route for as long as all its members are available. Only one thread at a time may use this object."""

    def __init__(self, engine: Engine, loader: ModelLoader) -> None:
        """``loader`` counts the loads of routes, and records why a route does not serve or why a change fails."""
        self.wanted: dict[str, RouteSettings | str] = {}
        """For each route that should serve: the content of its file, or why the file cannot be read. The route serves
        as soon as its members serve."""
        self._engine = engine
        self._loader = loader
        self._models = engine.config.models
        self._unused: set[str] = set()  # names whose route.toml is ignored
        self._resolved: dict[str, ServedRoute] = {}  # the routes that this ``refresh`` resolved, each after its members
        self._reasons: dict[str, str] = {}  # route -> why it does not serve as its file says

    def among(self, names: Iterable[str]) -> set[str]:
        """Return which of these names are routes, including routes whose folders cannot be read now. Log once if a
        folder that holds a model's versions also holds a route.toml."""
        files, unreadable = set(), set()
        for name in names:
            try:
                if (self._models / name / ROUTE_FILE).is_file():
                    files.add(name)
            except OSError:
                unreadable.add(name)
        routes = {name for name in files if is_route(self._models, name)} | (unreadable & self.wanted.keys())
        for name in sorted(files - routes - self._unused):
            reason = "the folder has versions, so the name belongs to a model; a route needs its own folder"
            log.warning(f"{ROUTE_FILE} not followed", model=name, reason=reason)
        self._unused = files - routes
        return routes

    def want(self, names: set[str]) -> None:
        """From the next ``refresh`` on, serve only these routes, with the current contents of their files."""
        for name in self.wanted.keys() - names:  # forget its failures, because a model may later have the route's name
            self._loader.forget_others(name, ())
        self.wanted = {name: self._read(name) for name in names}

    def members(self) -> set[str]:
        read = [settings for settings in self.wanted.values() if not isinstance(settings, str)]
        shadows = {settings.shadow.member.name for settings in read if settings.shadow is not None}
        return shadows | {member.name for settings in read for member in settings.members}

    def load(self, name: str) -> None:
        """Start to serve this route, with or without its shadow. On failure, change nothing and raise StartError."""
        if name not in self.wanted:  # each attempt that fails is reported
            self._loader.forget_others(name, ())
        self.wanted[name] = self._read(name)
        self.refresh()
        route, wanted = _serving_route(self._engine, name), self.wanted[name]
        if route is None:
            del self.wanted[name]
        if route is None or route.settings != wanted:
            raise StartError(self._loader.failures[name, ROUTE_VERSION].reason)

    def refresh(self) -> None:
        """Serve each route with a valid file and available members. Take the other routes out of service."""
        self._resolved, self._reasons = {}, {}
        routes, problems = self._resolved, self._reasons
        for name in sorted(self.wanted):
            try:
                self._route(name)
            except UserError as error:
                problems[name] = f"route {name}: {error}"
        before = {name: route for name in self._engine.names() if (route := _serving_route(self._engine, name))}
        for name, route in routes.items():
            if route is not before.get(name):
                self._engine.serve(name, [route])
                self._loader.outcomes[name, "ok"] += 1
                log.info("route loaded", model=name, **route.parameters())
        for name in before.keys() - routes.keys():
            self._engine.serve(name, [])
            log.warning("route taken out", model=name, reason=problems.get(name, "the route was removed"))
        for name in self.wanted:
            known, problem = self._loader.reason(name), problems.get(name, "")
            if problem:
                self._loader.failures[name, ROUTE_VERSION] = LoadFailure(problem, ())
            # a model may have had the route's name before
            self._loader.forget_others(name, [ROUTE_VERSION] if problem else ())
            if problem not in ("", known):
                event = "route serves, but not as its file says" if name in routes else "route not loaded"
                log.warning(event, model=name, reason=problem)
                self._loader.outcomes[name, "error"] += 1

    def _read(self, name: str) -> RouteSettings | str:
        """Return the content of a route's file, or why the file cannot be read."""
        try:
            return route_file.read(self._models / name / ROUTE_FILE)
        except UserError as error:
            return str(error)

    def _route(self, name: str, above: tuple[str, ...] = ()) -> ServedRoute:
        """Resolve a route and its members, unless the route is resolved already. Raise UserError if the route cannot
        serve. ``above`` has the routes that need this route, the outermost first."""
        if name in above:
            circle = (*above[above.index(name) :], name)
            raise StartError(f"a route must not lead back to itself: {' -> '.join(circle)}")
        if name in self._resolved:
            return self._resolved[name]
        settings, serving, above = self.wanted[name], _serving_route(self._engine, name), (*above, name)
        try:
            if isinstance(settings, str):
                raise StartError(settings)
            route = self._joined(name, settings, serving, above)
        except UserError as error:
            if serving is None:
                raise
            try:
                route = self._joined(name, serving.settings, serving, above)
            except UserError:
                raise error from None
            self._reasons[name] = f"route {name}: {error}"
        self._resolved[name] = route
        return route

    def _joined(
        self, name: str, settings: RouteSettings, serving: ServedRoute | None, above: tuple[str, ...]
    ) -> ServedRoute:
        members = {each: self._servable(f"its member {each}", each, above) for each in settings.members}
        shadow, problem = self._shadow(settings, members[settings.members[0]], serving, above)
        if serving is not None and serving.joins(settings, members, shadow):
            route = serving
        else:
            route = ServedRoute(self._engine, name, settings, members, shadow, serving)
        if problem:
            self._reasons[name] = f"route {name} serves without its shadow: {problem}"
        return route

    def _shadow(
        self, settings: RouteSettings, first: Servable, serving: ServedRoute | None, above: tuple[str, ...]
    ) -> tuple[Servable | None, str]:
        """Return (shadow, ""), or (None, reason) if the shadow cannot be served, or (None, "") if the route has none.
        Raise UserError if the route must not serve without its shadow (docs/reference/routes.md)."""
        if settings.shadow is None:
            return None, ""
        member = settings.shadow.member
        try:
            shadow = self._servable(f"its shadow {member}", member, above)
            require_one_signature({settings.members[0]: first, member: shadow})
        except UserError as error:
            if serving is None:
                is_known = bool(model_repository.versions(self._models, member.name))
            else:
                is_known = serving.settings.shadow is not None and serving.settings.shadow.member == member
            if not is_known:
                raise
            return None, str(error)
        return shadow, ""

    def _servable(self, what: str, member: Member, above: tuple[str, ...]) -> Servable:
        """Return ``member``'s model or route. If it does not serve, raise a UserError that begins with ``what``."""
        name, version = member
        is_a_route = is_route(self._models, name)
        if is_a_route and name in self.wanted:
            try:
                route = self._route(name, above)
            except UserError as error:
                raise StartError(f"{what} does not serve: route {name}: {error}") from error
            if version not in ("", ROUTE_VERSION):
                raise StartError(f"{what} does not serve: {name} is a route, which has only version {ROUTE_VERSION}")
            return route
        serving = self._engine.versions(name)  # a member without a version gets the model's first version
        for model in serving:
            if version in ("", model.version):
                return model
        files = () if is_a_route else model_repository.versions(self._models, name)
        present = ", ".join(str(file.version) for file in files) or (ROUTE_VERSION if is_a_route else "none")
        raise StartError(
            f"{what} does not serve. The versions of {name} in the repository: {present}; the versions that serve: "
            f"{', '.join(each.version for each in serving) or 'none'}. With --model-control explicit, load it first: "
            f"'hangtag models load {name}'. 'hangtag serve --num-versions' serves several versions"
        )


def _serving_route(engine: Engine, name: str) -> ServedRoute | None:
    return next((each for each in engine.versions(name) if isinstance(each, ServedRoute)), None)
