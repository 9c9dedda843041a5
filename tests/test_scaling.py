"""Several servers as deploy/ has them: calls spread, a server that dies, conversations that go on elsewhere."""

import asyncio
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import AsyncIterator, Callable, Dict, Iterator, List

import numpy as np
import psutil
import pytest

from assistant import free_port
from services import DEPLOY, MISSING, START_S, Site, running, settings, wait_until
from spoken_intents.audio import read_audio
from spoken_intents.client import VoiceClient
from spoken_intents.errors import ProtocolError

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: packages of Debian, see docs/scaling.md"),
]

GREETING = ["Hey! How are you?"]
CHEERING = ["Here is something to cheer you up:", "Did that help you?"]
HAPPY = ["Great, carry on!"]  # the answer to a yes, where it is known what was asked
TICKET_S = float(settings()["TICKET_LOCK_LIFETIME"])


@pytest.fixture(scope="module")
def site(spoken_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(spoken_project, tmp_path_factory.mktemp("site")) as site:
        yield site


async def until(fact: Callable[[], object], seconds: float = 30) -> None:
    """Calls go on meanwhile."""
    await asyncio.to_thread(wait_until, fact, seconds)


@asynccontextmanager
async def a_call_each(site: Site, *senders: str) -> AsyncIterator[Dict[str, VoiceClient]]:
    """Calls by the server that each is on, the first of them on the first sender's behalf."""
    await until(lambda: not any(site.calls().values()))  # the test before has hung up
    calls: Dict[str, VoiceClient] = {}
    async with AsyncExitStack() as stack:
        for sender in senders:
            before = site.calls()
            call = await stack.enter_async_context(VoiceClient(site.voice, sender=sender))
            calls[next(server for server, count in site.calls().items() if count > before[server])] = call
        yield calls


async def texts(call: VoiceClient, text: str) -> List[str]:
    answer = await call.type(text, patience_s=30)
    return answer.texts if answer else []


def clip(project: Path, intent: str) -> np.ndarray:
    return read_audio(project / "audio" / intent / "1.ogg", 30)


def test_calls_spread_over_the_servers_behind_one_port(site: Site) -> None:
    async def six() -> None:
        assert not any(site.calls().values())
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(VoiceClient(site.voice)) for _ in range(6)]
            assert site.calls() == {"rasa-1": 3, "rasa-2": 3}
            assert await asyncio.gather(*(texts(call, "/greet") for call in calls)) == [GREETING] * 6

    asyncio.run(six())


def test_a_new_call_goes_to_the_server_that_has_the_fewest(site: Site) -> None:
    async def three() -> None:
        async with a_call_each(site, "") as calls:
            quiet = site.calls()
            for _ in range(3):  # one after the other: in turn they would go to both
                async with VoiceClient(site.voice):
                    (server,) = (name for name, count in site.calls().items() if count > quiet[name])
                    assert server not in calls
                await until(lambda: site.calls() == quiet)

    asyncio.run(three())


@pytest.mark.parametrize(
    "path, status",
    [
        ("voice/status", 200),
        ("voice/", 200),
        ("voice/metrics", 403),
        ("voice/health", 403),
        ("rest/webhook", 403),
        ("../", 403),
        ("../version", 403),
    ],
)
def test_callers_reach_the_channels_and_nothing_else(site: Site, path: str, status: int) -> None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/webhooks/{path}") as answer:
            got = answer.status
    except urllib.error.HTTPError as error:
        got = error.code
    assert got == status


def test_turns_of_one_conversation_take_turns_wherever_its_connections_are(site: Site) -> None:
    async def two() -> None:
        async with a_call_each(site, "twice", "twice") as calls:
            assert set(calls) == set(site.servers)
            first, second = calls.values()
            with site.turns_held():
                greeted = asyncio.create_task(texts(first, "/greet"))
                await until(lambda: site.tickets("twice") == 1)
                cheered = asyncio.create_task(texts(second, "/mood_unhappy"))
                await until(lambda: site.tickets("twice") == 2)
            assert await greeted == GREETING
            assert await cheered == CHEERING  # which it is only in a conversation that began with a greeting

    asyncio.run(two())


def test_a_server_is_taken_out_while_its_calls_go_on(site: Site) -> None:
    async def drained() -> None:
        async with a_call_each(site, "patient") as calls:
            ((server, call),) = calls.items()
            site.balancer(f"set server rasa/{server} state drain")
            try:
                async with VoiceClient(site.voice), VoiceClient(site.voice):
                    assert site.calls() == {server: 1, other(site, server): 2}
                    assert await texts(call, "/greet") == GREETING
            finally:
                site.balancer(f"set server rasa/{server} state ready")

    asyncio.run(drained())


def other(site: Site, server: str) -> str:
    return next(name for name in site.servers if name != server)


def test_a_killed_server_takes_its_own_calls_along_and_comes_back(site: Site, spoken_project: Path) -> None:
    async def killed() -> None:
        async with a_call_each(site, "unlucky", "lucky") as calls:
            (dying, unlucky), (_, lucky) = calls.items()
            greeted = await unlucky.say(clip(spoken_project, "greet"))
            assert greeted and greeted.texts == GREETING
            assert await texts(unlucky, "/mood_unhappy") == CHEERING
            with site.turns_held():
                speaking = asyncio.create_task(lucky.say(clip(spoken_project, "greet")))
                lost = asyncio.create_task(texts(unlucky, "/deny"))
                await until(lambda: site.tickets("unlucky"))
                psutil.Process(site.pid(dying)).kill()
            with pytest.raises(ProtocolError, match="hung up"):
                await lost
            unharmed = await speaking
            assert unharmed and unharmed.texts == GREETING
            assert site.tickets("unlucky") == 1  # the dead server's: in its time
            async with VoiceClient(site.voice, sender="unlucky") as again:
                went_on = await again.say(clip(spoken_project, "affirm"), patience_s=3 * TICKET_S)
                assert went_on and went_on.texts == HAPPY
        await until(lambda: site.up(dying), START_S)
        async with a_call_each(site, "", "") as calls:
            assert [await texts(call, "/greet") for call in calls.values()] == [GREETING] * 2

    asyncio.run(killed())


def test_without_redis_turns_fail_and_calls_go_on(site: Site) -> None:
    async def without() -> None:
        async with VoiceClient(site.voice) as call:
            site.stop_redis()
            try:
                with pytest.raises(ProtocolError, match="could not be answered"):
                    await texts(call, "/greet")
            finally:
                site.start_redis()
            assert await texts(call, "/greet") == GREETING

    asyncio.run(without())


def test_without_postgresql_the_bot_answers_a_stranger(site: Site) -> None:
    async def without() -> None:
        async with VoiceClient(site.voice) as call:
            assert await texts(call, "/greet") == GREETING
            site.stop_postgres()
            try:
                assert await texts(call, "/mood_unhappy") != CHEERING
            finally:
                site.start_postgres()
            assert await texts(call, "/mood_unhappy") == CHEERING  # as the turn in between never was

    asyncio.run(without())


def test_workers_of_one_server_share_its_port_and_one_that_dies_stays_dead(site: Site) -> None:
    """What Rasa has itself, and why there is a process for each core instead."""
    site.stop_servers()
    port = free_port()
    command = ["rasa", "run", "-i", "127.0.0.1", "-p", str(port), "--model", site.environment["MODELS"]]
    command += ["--endpoints", str(DEPLOY / "endpoints.yml")]
    environment = {**site.environment, "SANIC_WORKERS": "2"}
    log = site.folder / "workers.log"

    with running(command, log, cwd=site.folder, env=environment) as server:
        wait_until(lambda: log.read_text().count("Rasa server is up and running") == 2, START_S)
        workers = psutil.Process(server.pid).children()
        assert len(workers) == 2

        def calls_of(worker: psutil.Process) -> int:
            lines = worker.connections() if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE else []
            return sum(line.laddr.port == port and line.status == psutil.CONN_ESTABLISHED for line in lines)

        async def spread() -> None:
            url = f"ws://127.0.0.1:{port}/webhooks/voice/websocket"
            async with AsyncExitStack() as stack:
                calls: Dict[psutil.Process, VoiceClient] = {}
                for _ in range(40):  # which of them takes a connection is for chance
                    before = calls_of(workers[0])
                    call = await stack.enter_async_context(VoiceClient(url, sender="moved" if not calls else ""))
                    assert await texts(call, "/greet") == GREETING
                    calls.setdefault(workers[0 if calls_of(workers[0]) > before else 1], call)
                    if len(calls) == 2:
                        break
                (dying, unlucky), (_, lucky) = calls.items()
                assert await texts(unlucky, "/mood_unhappy") == CHEERING
                dying.kill()
                with pytest.raises(ProtocolError, match="hung up"):
                    await texts(unlucky, "/affirm")
                assert await texts(lucky, "/mood_unhappy") == CHEERING
                async with VoiceClient(url, sender="moved") as again:
                    assert await texts(again, "/affirm") == HAPPY
            assert server.poll() is None
            assert [worker for worker in psutil.Process(server.pid).children() if worker not in workers] == []

        asyncio.run(spread())
