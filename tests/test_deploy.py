"""What deploy/ has fits together. That it works is in test_scaling.py, but for containers, which nothing here can start."""

import os
import re
import subprocess
from typing import Any, Dict, Set

import pytest
import yaml

from assistant import ROOT
from services import DEPLOY, program, settings

COMPOSE: Dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
SERVICES = COMPOSE["services"]


def variables(file: str) -> Set[str]:
    """Those that a file of deploy/ reads."""
    return set(re.findall(r"(?:\$\{|%\(ENV_)(\w+)", (DEPLOY / file).read_text()))


@pytest.mark.parametrize("file", ["endpoints.yml", "supervisord.conf", "compose.yml"])
def test_every_variable_has_a_setting(file: str) -> None:
    assert variables(file) - set(settings()) == set()


def test_containers_get_files_that_exist() -> None:
    files = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] == "."]
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert [file for file in files if not (DEPLOY / file).is_file()] == []
    assert [file for line in copied for file in line.split() if not (ROOT / file).exists()] == []


def test_containers_find_each_other() -> None:
    rasa = {name: service for name, service in SERVICES.items() if name.startswith("rasa")}
    balancer = SERVICES["balancer"]["environment"]
    assert {balancer[name] for name in balancer if name.startswith("RASA")} == {f"{name}:5005" for name in rasa}
    for service in rasa.values():
        places = service["environment"]
        assert {places["POSTGRES_HOST"], places["REDIS_HOST"], re.split("[/:]+", places["ACTION_SERVER"])[1]} <= set(SERVICES)
    assert all(service["restart"] == "always" for service in SERVICES.values())


@pytest.mark.skipif(not program("haproxy"), reason="needs haproxy")
@pytest.mark.parametrize("environment", [{}, SERVICES["balancer"]["environment"]], ids=["machine", "containers"])
def test_haproxy_takes_its_file(environment: Dict[str, str]) -> None:
    command = [program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    checked = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
