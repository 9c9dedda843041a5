"""What is pinned has a licence on its page; and what is asked about advisories is answered honestly."""

import json
import platform
import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Dict

import pytest

import audit
import licences

LISTED = [line.split(" | ") for line in licences.PAGE.read_text().splitlines() if line.startswith("| ")]


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the page lists what Linux on x86-64 needs")
def test_the_page_of_licences_is_what_the_installed_packages_say() -> None:
    assert licences.page() == licences.PAGE.read_text(), "run `python scripts/licences.py`"


def test_every_locked_package_is_listed_once() -> None:
    listed = [row[0].removeprefix("| ") for row in LISTED if row[0] != "| package"]
    assert sorted(listed) == sorted(licences.locked())
    assert len(listed) > 200


def test_what_asks_for_more_than_its_notice_says_so() -> None:
    """Copyleft, proprietary, or nothing in the metadata: a note says what that means here."""
    odd = [row for row in LISTED if any(word in row[1] for word in ("GPL", "MPL", "proprietary", licences.NONE))]
    assert len(odd) > 20
    assert [row for row in odd if len(row[2]) < 20] == []
    assert {"espeakng-loader", "psycopg2-binary", "soxr"} <= {row[0].removeprefix("| ") for row in odd}


def test_nothing_that_runs_an_assistant_is_under_the_gpl() -> None:
    to_run = licences.needed("")
    assert "rasa" in to_run and "torch" not in to_run
    assert not [name for name in to_run if licences.licence(distribution(name)).startswith(("GPL", "AGPL"))]
    assert "espeakng-loader" not in to_run


def test_everything_is_pinned_by_hashes() -> None:
    packages = re.split(r"\n(?=\S)", licences.LOCK.read_text())
    assert [package for package in packages if "--hash=sha256:" not in package] == []
    assert "--require-hashes" in (licences.ROOT / "scripts/setup.sh").read_text()


# ---------------------------------------------------------------- advisories

REPORT: Dict[str, Any] = {
    "dependencies": [
        {"name": "fine", "version": "1", "vulns": []},
        {
            "name": "old",
            "version": "2",
            "vulns": [
                {"id": "PYSEC-1", "aliases": ["CVE-2000-1", "GHSA-a"], "fix_versions": ["3"]},
                {"id": "GHSA-b", "aliases": [], "fix_versions": []},
            ],
        },
    ]
}


def test_advisories_that_the_page_does_not_name_are_told() -> None:
    assert audit.unknown(REPORT, "of old: CVE-2000-1, which nobody can reach") == ["old 2: GHSA-b; fixed in no version"]
    assert audit.unknown(REPORT, "PYSEC-1 GHSA-b") == []
    assert len(audit.unknown(REPORT, "")) == 2


@pytest.mark.parametrize(
    ("prints", "says", "ends"),
    [
        (f"print({json.dumps(json.dumps(REPORT))}); exit(1)", "old 2: GHSA-b; fixed in no version", 1),
        ("exit('ConnectionError: no way')", "No advisories were read", 2),
        ("print('not JSON')", "No advisories were read", 2),
    ],
)
def test_what_could_not_be_asked_is_not_taken_for_an_answer(
    prints: str, says: str, ends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!{sys.executable}\n{prints}\n")
    uv.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert audit.main() == ends
    said = capsys.readouterr()
    assert says in said.out
    assert ("ConnectionError" in said.err) == ("ConnectionError" in prints)


def test_the_page_of_advisories_is_about_what_is_pinned() -> None:
    """A newer version may have ended what the page says of an older one."""
    pinned = dict(
        line.split()[0].split("==") for line in licences.LOCK.read_text().splitlines() if "==" in line and line[0] != " "
    )
    rows = [line.split("|")[1].split() for line in audit.PAGE.read_text().splitlines() if line.startswith("| ")]
    named = {row[0]: row[1] for row in rows if row and row[0] != "package"}
    assert len(named) > 10
    assert {name: pinned[name] for name in named} == named
