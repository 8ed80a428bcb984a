"""A network with a delay: TCP proxies on loopback that hold every byte for a while, and do not limit how many pass."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import deque

_CHUNK = 1 << 16
_HOST = "127.0.0.1"


class Delays:
    """Proxies to ``target`` in a process of their own, one for each of ``delays``, in seconds for each direction.

    Attributes:
        addresses: of the proxies, by delay.
    """

    def __init__(self, target: str, *delays: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, target, *map(str, delays)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addresses = {delay: self._process.stdout.readline().strip() for delay in delays}

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    waiting: deque[bytes] = deque()  # each chunk has a timer of its own; the order is that of arrival
    while chunk := await source.read(_CHUNK):
        waiting.append(chunk)
        loop.call_later(delay, lambda: sink.write(waiting.popleft()))
    loop.call_later(delay, sink.close)


async def _serve(target: str, delays: list[float]) -> None:
    host, _, port = target.rpartition(":")

    async def proxy(delay: float) -> asyncio.Server:
        async def connected(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
            far, to_far = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_pass_on(near, to_far, delay), _pass_on(far, to_near, delay))

        return await asyncio.start_server(connected, _HOST, 0)

    servers = [await proxy(delay) for delay in delays]
    for server in servers:
        print(f"{_HOST}:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the process that started this one ends


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], [float(delay) for delay in sys.argv[2:]]))
