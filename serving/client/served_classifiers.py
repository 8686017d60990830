"""Which models of a server classify images, and what pictures they take, as their configurations say."""

from functools import cache

from hangtag.errors import UserError
from hangtag.printable import escaped
from hangtag.serving.client.client import Client
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.image_spec import ImageSpec, ImageSpecError

_CLASSIFIES, _IMAGE = "classifies_images", "hangtag.image"


class ServedClassifiers:
    """Asks a server, and each question once."""

    def __init__(self, client: Client) -> None:
        """Ask through a client, which stays the caller's."""
        self._client = client
        self.image = cache(self._read_image)
        """Returns what pictures a model takes, by its name and version; None where its server does not say."""

    def only_one(self) -> str:
        """Return the name of the only model that classifies images.

        Raises:
            UserError: there is none, or there are several; or the server, such as one of an earlier release, does not
                say which do.
            ClientError: the server cannot be asked.
        """
        names = self._client.models()
        classifiers = [name for name in names if self._client.parameters(name).get(_CLASSIFIES) == "true"]
        if len(classifiers) == 1:
            return classifiers[0]
        if classifiers:
            raise UserError(
                f"the server has {len(classifiers)} models that classify images: {_listed(classifiers)}. Name one with "
                "--model, or several, to show their answers side by side."
            )
        if names:
            raise UserError(
                f"the server does not say that any of its models classifies images. They are {_listed(names)}; name "
                "one with --model."
            )
        raise UserError("the server serves no model.")

    def _read_image(self, model: str, version: str) -> ImageSpec | None:
        try:
            text = self._client.parameters(model, version=version).get(_IMAGE)
            return ImageSpec.parse(text) if text is not None else None
        except (ClientError, ImageSpecError):
            return None


def _listed(names: list[str]) -> str:
    return ", ".join(map(escaped, names))
