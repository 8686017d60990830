"""The checks that settings declare: which values a setting takes, and how it reads one from a text."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SAMPLES = 4096
"""The largest batch that any setting may ask for."""


class Check(ABC):
    """Which values one setting takes. Immutable, and free of click, so that every way to set a value can share it."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What a value has to be, as the end of the sentence "X is not …"."""

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Whether the setting takes this value."""

    def read(self, text: str) -> Any:
        """The value that a text stands for; the text itself where it stands for none, which ``accepts`` refuses."""
        return text

    def problem(self, value: object) -> str:
        """What is wrong with a value and what was expected; empty where the setting takes it."""
        if self.accepts(value):
            return ""
        shown = str(value) if isinstance(value, Path) else repr(value)
        return f"{shown} is not {self.expected}"


@dataclass(frozen=True)
class WholeNumber(Check):
    """A whole number in a closed range; ``most`` is None where only the machine sets a limit."""

    least: int
    most: int | None = None

    @property
    def expected(self) -> str:
        return f"a whole number of at least {self.least}" if self.most is None else f"a whole number {_range(self)}"

    def accepts(self, value: object) -> bool:
        return type(value) is int and self.least <= value and (self.most is None or value <= self.most)

    def read(self, text: str) -> Any:
        try:
            return int(text)
        except ValueError:
            return text


@dataclass(frozen=True)
class SecondsRange(Check):
    """A number of seconds in a closed range. gRPC's core counts milliseconds in 31 bits, which sets the upper end."""

    least: float
    most: float = 2_000_000

    @property
    def expected(self) -> str:
        return f"a number of seconds {_range(self)}"

    def accepts(self, value: object) -> bool:
        return type(value) in (int, float) and self.least <= value <= self.most  # type: ignore[operator]

    def read(self, text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text


@dataclass(frozen=True)
class Choice(Check):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(map(repr, self.words))

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and value in self.words


@dataclass(frozen=True)
class Switch(Check):
    """True or False; on the command line an option without a value, which means True."""

    @property
    def expected(self) -> str:
        return "True or False"

    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Check):
    """Any text."""

    @property
    def expected(self) -> str:
        return "a text"

    def accepts(self, value: object) -> bool:
        return isinstance(value, str)


@dataclass(frozen=True)
class FilePath(Check):
    """The path of a file, which need not exist; with ``folder`` it may be a folder."""

    folder: bool = False

    @property
    def expected(self) -> str:
        return "a path" if self.folder else "the path of a file"

    def accepts(self, value: object) -> bool:
        return isinstance(value, Path) and (self.folder or not value.is_dir())

    def read(self, text: str) -> Any:
        return Path(text)


@dataclass(frozen=True)
class ModelLimit(Check):
    """A model's name and the most samples computed together; written NAME=N."""

    most: int

    @property
    def expected(self) -> str:
        return f"a model's name, '=' and a number from 0 to {self.most}"

    def accepts(self, value: object) -> bool:
        if not (isinstance(value, tuple) and len(value) == 2):
            return False
        name, limit = value
        return isinstance(name, str) and bool(name) and WholeNumber(0, self.most).accepts(limit)

    def read(self, text: str) -> Any:
        name, _, limit = text.rpartition("=")
        return (name, int(limit)) if limit.isascii() and limit.isdigit() else text

    def problem(self, value: object) -> str:
        match value:
            case (str(name), int(limit)):
                return super().problem(value) and f"'{name}={limit}' is not {self.expected}"
        return super().problem(value)


def _range(check: WholeNumber | SecondsRange) -> str:
    return f"from {check.least} to {check.most}"
