"""Redis, PostgreSQL, HAProxy and Supervisor from Debian's packages: private ones that listen on 127.0.0.1 and end with the test."""

import csv
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import psutil
import psycopg2
import redis
import yaml

from assistant import BIN, QUIET, ROOT, free_port

DEPLOY = ROOT / "deploy"
PATH = os.pathsep.join([str(BIN), os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
PROGRAMS = ("redis-server", "initdb", "postgres", "haproxy", "supervisord")
START_S = 600  # two servers at once, on two cores that others use, too


def program(name: str) -> str:
    """Where it is; empty when it is nowhere."""
    return shutil.which(name, path=PATH) or ""


MISSING = [name for name in PROGRAMS if not program(name)]


def wait_until(fact: Callable[[], Any], seconds: float = 30) -> None:
    """Returns as soon as `fact` holds."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not so within {seconds:.0f} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: List[str], log: Path, end: signal.Signals = signal.SIGTERM, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program, until the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program(command[0]), *command[1:]], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
        )
    try:
        yield process
    finally:
        process.send_signal(end)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Site:
    """What deploy/ describes, on this machine: two Rasa servers under Supervisor, and what is around them.

    Args:
        project: A trained Rasa project. Servers get its newest model, and no other file of it.
    """

    def __init__(self, project: Path, folder: Path) -> None:
        self.folder = folder
        self.port, self._redis_port, self._postgres_port = free_port(), free_port(), free_port()
        first = two_free_ports()
        self.servers = {"rasa-1": first, "rasa-2": first + 1}
        models = folder / "models"
        models.mkdir()
        newest = max((project / "models").glob("*.tar.gz"), key=os.path.getmtime)
        (models / newest.name).symlink_to(newest)
        (folder / "credentials.yml").write_text(yaml.safe_dump({"spoken_intents.channels.voice.VoiceInput": {"speech": "none"}}))
        self.environment = {
            **os.environ,
            **QUIET,
            "PATH": PATH,
            **settings(),
            "POSTGRES_PORT": str(self._postgres_port),
            "REDIS_PORT": str(self._redis_port),
            "ASSISTANT": str(folder),
            "MODELS": str(models),
            "RUN": str(folder),
            "FIRST_PORT": str(first),
            "RASA_1": f"127.0.0.1:{first}",
            "RASA_2": f"127.0.0.1:{first + 1}",
            "BALANCER": f"127.0.0.1:{self.port}",
            "BALANCER_SOCKET": str(folder / "admin.sock"),
        }
        self._stack, self._servers, self._redis, self._postgres = ExitStack(), ExitStack(), ExitStack(), ExitStack()
        self._owner: Dict[str, Any] = {}
        self._supervisor: Optional["subprocess.Popen[bytes]"] = None

    @property
    def voice(self) -> str:
        return f"ws://127.0.0.1:{self.port}/webhooks/voice/websocket"

    def __enter__(self) -> "Site":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        for part in (self._servers, self._postgres, self._redis, self._stack):
            part.close()

    def _start(self) -> None:
        self.start_redis()
        self._make_database()
        self.start_postgres()
        command = ["haproxy", "-f", str(DEPLOY / "haproxy.cfg")]
        self._stack.enter_context(running(command, self.folder / "haproxy.log", env=self.environment))
        wait_until(lambda: listens(self.port))
        self.start_servers()

    def start_redis(self) -> None:
        command = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
        self._redis = ExitStack()
        self._redis.enter_context(running(command, self.folder / "redis.log", cwd=self.folder))
        wait_until(lambda: listens(self._redis_port))

    def stop_redis(self) -> None:
        self._redis.close()

    def _make_database(self) -> None:
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            self._owner = {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}
        self._data = self._stack.enter_context(tempfile.TemporaryDirectory())
        if self._owner:
            shutil.chown(self._data, "postgres")
        initdb = [program("initdb"), "-D", self._data, "-U", "rasa", "--auth=trust", "--no-sync"]
        alone = [program("postgres"), "--single", "-D", self._data, "postgres"]
        options: Dict[str, Any] = {"check": True, "cwd": self._data, "stdout": subprocess.DEVNULL, **self._owner}
        subprocess.run(initdb, **options)
        subprocess.run(alone, input=b"CREATE DATABASE rasa\n", **options)

    def start_postgres(self) -> None:
        command = ["postgres", "-D", self._data, "-p", str(self._postgres_port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        log = self.folder / "postgres.log"
        self._postgres = ExitStack()  # SIGTERM would wait for its clients
        self._postgres.enter_context(running(command, log, signal.SIGINT, cwd=self._data, **self._owner))
        wait_until(self._has_database)

    def stop_postgres(self) -> None:
        self._postgres.close()

    def _has_database(self) -> bool:
        try:
            psycopg2.connect(host="127.0.0.1", port=self._postgres_port, user="rasa", dbname="rasa").close()
        except psycopg2.OperationalError:
            return False
        return True

    def start_servers(self) -> None:
        command = ["supervisord", "-c", str(DEPLOY / "supervisord.conf")]
        self._servers = ExitStack()
        self._supervisor = self._servers.enter_context(running(command, self.folder / "supervisord.log", env=self.environment))
        wait_until(lambda: all(self.up(server) for server in self.servers), START_S)

    def stop_servers(self) -> None:
        self._servers.close()

    # ------------------------------------------------ what is going on

    @contextmanager
    def turns_held(self) -> Iterator[None]:
        """Inside, a turn that Rasa gets stops where the conversation is read: it has its ticket, and waits for the database."""
        connection = psycopg2.connect(host="127.0.0.1", port=self._postgres_port, user="rasa", dbname="rasa")
        try:
            connection.cursor().execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            yield
        finally:
            connection.close()

    def tickets(self, sender: str) -> int:
        """Turns of a conversation that are at work or wait, as Redis has them."""
        lock = redis.Redis(port=self._redis_port, db=1).get(f"lock:{sender}")
        return len(yaml.safe_load(lock)["tickets"]) if lock else 0

    def pid(self, server: str) -> int:
        """Of a server's process, as Supervisor has it."""
        assert self._supervisor is not None
        for child in psutil.Process(self._supervisor.pid).children():
            if str(self.servers[server]) in child.cmdline():
                return child.pid
        raise AssertionError(f"{server} does not run")

    def balancer(self, command: str) -> str:
        """What HAProxy answers on its socket."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(self.environment["BALANCER_SOCKET"])
            admin.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def calls(self) -> Dict[str, int]:
        """How many each server has, as HAProxy counts them."""
        return {row["svname"]: int(row["scur"]) for row in self._rows()}

    def up(self, server: str) -> bool:
        """Whether HAProxy gives a server new calls."""
        by_server = {row["svname"]: row for row in self._rows()}
        return listens(self.servers[server]) and by_server[server]["status"] == "UP"  # which it is until the first check, too

    def _rows(self) -> List[Dict[str, str]]:
        rows = csv.DictReader(self.balancer("show stat").removeprefix("# ").splitlines())
        return [row for row in rows if row["svname"] in self.servers]


def settings() -> Dict[str, str]:
    """Those of deploy/settings.env."""
    lines = (DEPLOY / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def two_free_ports() -> int:
    """The first of two neighbours that nobody uses, and that no connection is given while their server is away."""
    while True:
        first = random.randrange(10_000, 30_000)  # Linux gives connections ports from 32768 on
        if [free_port(first), free_port(first + 1)] == [first, first + 1]:
            return first
