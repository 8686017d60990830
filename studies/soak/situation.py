"""What a call is made with, and which member of a split has answered which caller."""

import random
from dataclasses import dataclass, field

from studies.soak.answers import MODELS, Answers, WrongAnswerError
from studies.soak.connections import Connections

SPLIT, STICKY = "split-by-caller", "x-user-id"
"""A route that sends half of its callers to each of MODELS, and the metadata key by which it knows a caller."""
_CALLERS = 200


@dataclass
class Callers:
    """The callers of SPLIT. Each must always get the same member, from every server."""

    _members: dict[str, str] = field(default_factory=dict)

    def one(self, chooser: random.Random) -> str:
        """The value of STICKY of one of them."""
        return f"caller-{chooser.randrange(_CALLERS)}"

    def check(self, caller: str, member: str) -> None:
        """Check which member answered a caller.

        Raises:
            WrongAnswerError: It is no member, or it is not the one that answered the caller before.
        """
        if member not in MODELS:
            raise WrongAnswerError(f"{SPLIT} says that {member or 'nobody'} answered")
        before = self._members.setdefault(caller, member)
        if member != before:
            raise WrongAnswerError(f"{SPLIT} sent {caller} to {before} first, and to {member} now")


@dataclass(frozen=True)
class Situation:
    """What one call is made with.

    Args:
        connections: To the server.
        answers: The images, and what is right for each.
        random: Chooses among them.
        callers: Of the split.
    """

    connections: Connections
    answers: Answers
    random: random.Random
    callers: Callers = field(default_factory=Callers)

    def image(self, count: int = 1) -> int:
        """The number of an image that is followed by count - 1 others."""
        return self.random.randrange(len(self.answers.images) - count + 1)
