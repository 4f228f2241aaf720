"""A change that many may wait for."""

import anyio


class Signal:
    """Wakes everybody who waits for the next change, with one event however many there are."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Who waits goes on."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Returns at the next `notify`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
