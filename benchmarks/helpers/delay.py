"""A network that takes its time: a proxy that answers each request a while later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MOST = 2**16


class Delayed:
    """A port on this machine that leads to another one, `delay_s` away."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._to, self._delay_s = port, delay_s
        self.port = 0
        self.requests = 0
        """How many have passed."""

    async def serve(self, ready: threading.Event) -> None:
        """Serve until it is cancelled."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(
            self._pass(reader, back, self._delay_s),
            self._pass(there, writer, 0.0),
            return_exceptions=True,
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
    ) -> None:
        try:
            while part := await reader.read(_MOST):
                if delay_s:
                    # A request without a body comes in one part.
                    self.requests += part.split(b" ", 1)[0] in {b"GET", b"HEAD", b"PUT", b"POST"}
                    await asyncio.sleep(delay_s)
                writer.write(part)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def delayed(port: int, delay_s: float) -> Iterator[Delayed]:
    """Yield a port that leads to `port`, and answers `delay_s` seconds later."""
    proxy, ready = Delayed(port, delay_s), threading.Event()
    loop = asyncio.new_event_loop()
    serving = loop.create_task(proxy.serve(ready))

    def serve() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join()
