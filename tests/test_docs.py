"""What the documents list is what there is."""

import re
from pathlib import Path

import pytest

from assistant import ROOT

PACKAGES = (ROOT / "plugin/spoken_intents", ROOT / "training/spoken_intents_training")


def modules() -> "set[str]":
    """Every module's name, as the documents give it."""
    files = [file for package in PACKAGES for file in package.rglob("*.py") if "__" not in file.name]
    return {file.name for file in files}


def matches(listed: str, name: str) -> bool:
    return re.fullmatch(re.escape(listed).replace(r"\*", ".*"), name) is not None


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_every_module_is_listed(document: str) -> None:
    listed = {Path(name).name for name in re.findall(r"[\w/*]+\.py", (ROOT / document).read_text())}
    assert [name for name in sorted(modules()) if not any(matches(other, name) for other in listed)] == []
