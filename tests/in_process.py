"""A channel on a real socket of this process, with Rasa and the recognizer scripted."""

import asyncio
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, AsyncIterator

from sanic import Sanic

from assistant import free_port
from spoken_intents import recognizer as recognizers
from spoken_intents.channels.spoken import SpokenInput

PATIENCE_S = 20  # how long a wait may take before it counts as hanging


async def knows_nobody(sender: str) -> bool:
    return False


@asynccontextmanager
async def serving(
    *channels: SpokenInput, rasa: Any, ear: Any, domain: Any = None, knows: Any = knows_nobody, agent: bool = True
) -> AsyncIterator[Sanic]:
    """Serves `channels` as `rasa run` does, at ``/webhooks/<name>``; gives the application: `ctx.port` says
    where, `ctx.connections` are Sanic's, `ctx.wind_down` is what SIGTERM begins with. At the end nothing may be left.

    Args:
        rasa: Is awaited with each `UserMessage`.
        ear: The recognizer.
        knows: Is awaited with a sender: whether Rasa has had a turn of it.
        agent: Whether a model is loaded.
    """
    app = Sanic(f"test_{uuid.uuid4().hex}")
    model = uuid.uuid4().hex
    recognizers.register(model, ear)
    trackers = SimpleNamespace(exists=knows)
    app.ctx.agent = SimpleNamespace(model_id=model, domain=domain, tracker_store=trackers) if agent else None
    for channel in channels:
        app.blueprint(channel.blueprint(rasa), url_prefix=f"/webhooks/{channel.name()}")
    app.ctx.port = free_port()
    server = await app.create_server(host="127.0.0.1", port=app.ctx.port, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.after_start()
    await server.start_serving()
    app.ctx.connections, app.ctx.wind_down = server.connections, server.before_stop
    try:
        yield app
    finally:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while any(not connection.transport.is_closing() for connection in server.connections):
            assert asyncio.get_running_loop().time() < deadline, "a connection stays"
            await asyncio.sleep(0.001)
        await server.before_stop()
        await server.close()
        await server.after_stop()
        while ours := [task for task in asyncio.all_tasks() if "/spoken_intents/" in repr(task)]:
            assert asyncio.get_running_loop().time() < deadline, f"left behind: {ours}"
            await asyncio.sleep(0.001)


def run(scenario: Any) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 3 * PATIENCE_S))
