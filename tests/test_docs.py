"""What the documents list is what there is."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from assistant import ROOT
from spoken_intents.channels.voice import VoiceSettings

PACKAGES = (ROOT / "plugin/spoken_intents", ROOT / "training/spoken_intents_training")


def modules() -> "set[str]":
    """Every module's name, as the documents give it."""
    files = [file for package in PACKAGES for file in package.rglob("*.py") if "__" not in file.name]
    return {file.name for file in files}


def matches(listed: str, name: str) -> bool:
    return re.fullmatch(re.escape(listed).replace(r"\*", ".*"), name) is not None


def test_every_module_is_listed() -> None:
    listed = {Path(name).name for name in re.findall(r"[\w/*]+\.py", (ROOT / "docs/architecture.md").read_text())}
    assert [name for name in sorted(modules()) if not any(matches(other, name) for other in listed)] == []


def test_every_setting_is_listed_with_its_default() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]*)\|", page, re.M))
    for setting in fields(VoiceSettings):
        said = yaml.safe_load(listed[setting.name].strip(" `") or "null")
        assert said == (None if setting.default in ("", None) else default_of(setting)), setting.name


def default_of(setting: Any) -> Any:
    """A dataclass field's, as YAML has it."""
    return list(setting.default) if isinstance(setting.default, tuple) else setting.default


REFUSES = {
    "ProtocolError": 0,
    "UnwellError": 0,
    "_cut_off": 0,
    "refused": 1,
    "_refusal": 1,
}  # where the code is among the arguments


def codes() -> "set[str]":
    """Those by which the channels refuse, as the source has them."""
    found = set()
    for file in [PACKAGES[0] / "health.py", *(PACKAGES[0] / "channels").glob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                code = call.args[REFUSES[name]] if name in REFUSES and len(call.args) > REFUSES[name] else None
                if isinstance(code, ast.Constant):
                    found.add(code.value)
    return found


def test_operators_are_told_of_every_code() -> None:
    table = (ROOT / "docs/operations.md").read_text().partition("## Codes")[2]
    assert len(codes()) > 30
    assert sorted(codes() - set(re.findall(r"`(\w+)`", table))) == []


@pytest.mark.parametrize(
    "document",
    sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("corpus/*.md")]),
    ids=lambda document: document.name,
)
def test_links_lead_somewhere(document: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link:
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def anchors(document: Path) -> "set[str]":
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
