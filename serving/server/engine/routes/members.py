"""What serves the members of a route, and how a call reaches them while models are replaced."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.routes.route_file import Member
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import ModelLoadError, RepositoryError, UnavailableError
from hangtag.serving.signature import Signature

LookUp = Callable[[Member], Servable]


class RouteMembers:
    """The models of one route, as they were when it was made. Thread-safe.

    A route keeps its models, so that a request that was checked for them is computed by them, also while others take
    their place. A model that was replaced closes a moment later (see ``retirement``), and by then a new route has
    replaced this one; a request that is still on its way here follows the model's successor.
    """

    def __init__(self, models: Mapping[Member, Servable], look_up: LookUp) -> None:
        """Check that the models fit each other.

        Args:
            models: What serves each member now, a shadow not among them: it limits no request.
            look_up: Returns what serves a member at a later time. Raises UnavailableError where nothing does.

        Raises:
            ModelLoadError: The models' signatures differ.
        """
        require_one_signature(models)
        self._models = models
        self._look_up = look_up
        self.strictest = min(models.values(), key=lambda model: model.max_batch_size)
        """The model that takes the fewest samples in a request."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> Admission:
        """As `Servable.check`: a request is admitted if every model takes it. Raises InvalidRequestError."""
        admission = self.strictest.check(inputs, datatypes)
        if any(0 in array.shape for array in inputs.values()):  # some models take empty tensors, and others do not
            for model in self._models.values():
                model.check(inputs, datatypes)
        return admission

    def model(self, member: Member) -> Servable:
        """What served a member when the route was made."""
        return self._models[member]

    def put(self, member: Member, call: Call) -> None:
        """Queue a call with a member's model, or with its successor where it is closed: see `Servable.put`.

        Raises:
            ServerError: The call is refused.
        """
        model = self._models[member]
        while True:
            try:
                model.put(call)
            except UnavailableError:
                successor = self._look_up(member)
                if successor is model or _difference(model.signature, successor.signature):
                    raise
                model = successor
            else:
                return


class MemberCall(Call):
    """What a route asks a member for a call of its own: the whole call, or some of its samples."""

    def __init__(
        self, of: Call, inputs: Tensors, samples: int, on_end: Callable[[InferenceResult | Exception], None]
    ) -> None:
        """Ask for samples of a call.

        Args:
            of: The route's call; it has the same deadline and metadata.
            inputs: Of the samples.
            samples: How many there are.
            on_end: Gets the outcome, from the thread that computed or dropped it.
        """
        self.deadline = of.deadline
        self.inputs = inputs
        self.samples = samples
        self.batch_key = of.batch_key
        self._of = of
        self._on_end = on_end

    def answer(self, result: InferenceResult) -> None:
        self._on_end(result)

    def fail(self, error: Exception) -> None:
        self._on_end(error)

    def metadata_value(self, key: str) -> str:
        return self._of.metadata_value(key)


def require_one_signature(models: Mapping[Member, Servable]) -> None:
    """Raise ModelLoadError where the signatures of models differ, which one route has as members or as its shadow."""
    (first, model), *others = models.items()
    for member, other in others:
        if difference := _difference(model.signature, other.signature):
            raise ModelLoadError(
                f"the models of a route must have one signature; {first} and {member} differ in {difference}"
            )


def model_of(member: Member, who: str, serving: Sequence[Servable], models: Path) -> Servable:
    """Return the model that serves a member, or a shadow.

    Args:
        member: Its name and version.
        who: It, for the message.
        serving: The loaded versions of this name; the first serves a member without a version.
        models: The model repository.

    Raises:
        RepositoryError: Nothing serves it.
    """
    for model in serving:
        if member.version in ("", model.version):
            return model
    published = [str(file.version) for file in repository.versions(models, member.name)]
    if not serving and not published:
        raise RepositoryError(f"{who} does not serve: the repository has no model of this name")
    if member.version and member.version not in published:
        there = f"version {member.version} of {member.name}; it has {', '.join(published) or 'none'}"
        raise RepositoryError(f"{who} does not serve: the repository has no {there}")
    if not serving:
        raise RepositoryError(f"{who} does not serve{load_first(member.name)}")
    versions = ", ".join(each.version for each in serving)
    more = "('hangtag serve --num-versions' serves more than one)"
    raise RepositoryError(f"{who} does not serve; of {member.name} version {versions} serves {more}")


def load_first(name: str) -> str:
    """What to do, for a message, where a model or a route of the repository is not loaded."""
    return f" (with --model-control explicit, load it first: 'hangtag models load {name}')"


def _difference(one: Signature, other: Signature) -> str:
    """What differs between two signatures, for a message; empty if nothing does that an answer depends on."""
    for what, left, right in (
        ("their inputs", one.inputs, other.inputs),
        ("their outputs", one.outputs, other.outputs),
        ("their task", one.task, other.task),
        ("their labels", one.labels, other.labels),
        ("whether requests are batched", one.batched, other.batched),
        ("how a picture of another size is made to fit", *_fits(one, other)),
    ):
        if left != right:
            return f"{what}: {_shown(left)} and {_shown(right)}"
    return ""


def _fits(one: Signature, other: Signature) -> tuple[str, str]:
    """How pictures are made to fit; equal where a file does not say it, for a route prepares them as the first does."""
    return (one.image.fit, other.image.fit) if one.image and other.image else ("", "")


def _shown(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)
