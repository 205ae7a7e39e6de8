"""What it costs to receive a message: aiohttp's `receive()`, picows' callback.

A child floods us with JSON ticks, many to a write, as our feed does. Counted
is our own CPU time; nothing is decoded.
"""

import asyncio
import subprocess
import sys
import time
from functools import partial

import aiohttp
from aiohttp import web
from picows import ws_connect

from benchmarks.runs import ROOT, answer, say
from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.frame import Kind
from quants.host import running
from quants.inbox import Inbox
from quants.market import Market
from quants.messages import as_json, text_frames
from quants.tick import Batch

CLAIM = Claim(
    "a message by aiohttp's receive() costs at least 1.5 times picows' callback",
    "aiohttp", "picows", "us/message", "at least", 1.5,
)  # fmt: skip
BLOCK = 1000  # messages to a write


async def serve() -> None:
    """Flood every client with as many messages as its path asks for."""
    market = Market()
    batch = Batch(market.take(BLOCK), 1, BLOCK, 0)
    block = text_frames(as_json(Kind.TICKS, batch, market.symbols))

    async def flood(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        assert request.transport is not None
        for _ in range(int(request.match_info["blocks"])):
            request.transport.write(block)
            # No event tells: the writes pass aiohttp's own drain.
            while request.transport.get_write_buffer_size() > 1 << 20:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/{blocks}", flood)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(f"ws://127.0.0.1:{runner.addresses[0][1]}/")
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def by_aiohttp(url: str) -> int:
    """Count messages, awaiting each."""
    count = 0
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=0, decode_text=False) as ws,
    ):
        async for _ in ws:
            count += 1
    return count


async def by_picows(url: str) -> int:
    """Count messages, taking what has arrived."""
    count = 0
    transport, inbox = await ws_connect(Inbox, url)
    assert isinstance(inbox, Inbox)
    while messages := await inbox.take():
        count += len(messages)
    transport.disconnect(graceful=False)
    return count


def measure(size: Size) -> list[Finding]:
    """The claim, from two clients in turn."""
    blocks = max(1, int(300 * size.seconds))
    command = [sys.executable, "-m", "benchmarks.receive"]
    pipe = subprocess.PIPE
    with running(command, cwd=ROOT, stdin=pipe, stdout=pipe) as server:
        url = f"{answer(server).strip()}{blocks}"

        def cost(client: str) -> float:
            start = time.process_time()
            receive = by_aiohttp if client == "aiohttp" else by_picows
            count = asyncio.run(receive(url))
            assert count == blocks * BLOCK, f"{count} of {blocks * BLOCK} messages"
            return (time.process_time() - start) / count * 1e6

        names = {"aiohttp": "aiohttp", "picows": "picows", "again": "picows"}
        sides = {name: partial(cost, client) for name, client in names.items()}
        found = in_turn(sides, size.rounds)
    return [find(CLAIM, found["aiohttp"], found["picows"], found["again"])]


if __name__ == "__main__":
    asyncio.run(serve())
