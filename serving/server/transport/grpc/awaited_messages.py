"""The calls whose only message has not come yet, and how they end where it does not come.

gRPC's core hands a call over when its headers have come. A client that sends nothing more would keep the call open for
ever, and enough of them would take the places of all others.
"""

import asyncio

import grpc

from hangtag.serving.server.errors import DeadlineError, InvalidRequestError
from hangtag.serving.server.transport.grpc.calls import Context


def take_place(places: dict[asyncio.Timeout, None], most: int, time_limit: asyncio.Timeout) -> None:
    """Take one of a limited number of places. Where all are taken, the call that has had one for longest ends.

    Args:
        places: The time limits of the calls that have a place, in the order in which they took it. A call takes its own
            out when it ends.
        most: How many places there are.
        time_limit: Of the call that takes a place.
    """
    if len(places) >= most:
        longest = next(iter(places))
        del places[longest]
        if not longest.expired():  # else it is ending anyway, and its time can no longer be set
            longest.reschedule(asyncio.get_running_loop().time())
    places[time_limit] = None


class AwaitedMessages:
    """Reads the message of each call. To be used on the event loop alone."""

    def __init__(self, seconds: float, most: int) -> None:
        """Await nothing yet.

        Args:
            seconds: How long a message may take to come.
            most: Messages that are awaited at once; one more call ends the call that has waited longest.
        """
        self._seconds = seconds
        self._most = most
        self._awaited: dict[asyncio.Timeout, None] = {}  # the first has waited longest

    async def read(self, context: Context) -> bytes:
        """Return a call's message.

        Raises:
            DeadlineError: It did not come in time, or the call waited longest of too many.
            InvalidRequestError: The client has sent all, and no message.
        """
        try:
            async with asyncio.timeout(self._seconds) as time_limit:
                take_place(self._awaited, self._most, time_limit)
                try:
                    message = await context.read()
                finally:
                    self._awaited.pop(time_limit, None)
        except TimeoutError:
            raise DeadlineError("the call's message did not come in time; send it with the call's headers") from None
        if message is grpc.aio.EOF:
            raise InvalidRequestError("the call has no message, and its method takes one")
        return bytes(message)
