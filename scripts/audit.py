"""Asks pip-audit which advisories there are about what requirements.lock pins, and which of them docs/advisories.md leaves out.

It needs the Python Package Index itself: mirrors know packages, and seldom advisories.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent
LOCK, PAGE = ROOT / "requirements.lock", ROOT / "docs/advisories.md"
PIP_AUDIT = "pip-audit==2.10.1"
# strict: a package that the index has no record of is an error, not one without advisories.
OPTIONS = ["--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]


def audit() -> str:
    """What pip-audit prints: JSON, or nothing when it could not ask.

    Raises:
        CalledProcessError: Nothing was found out; `stderr` says why.
    """
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    command = [uv, "tool", "run", PIP_AUDIT, *OPTIONS, "--requirement", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():  # 1 is also what it ends with when it has found something
        raise subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr)
    return done.stdout


def unknown(report: Dict[str, Any], page: str) -> List[str]:
    """A line for each advisory of pip-audit's JSON that the page does not name, by any of its ids."""
    lines = []
    for package in report["dependencies"]:
        for advisory in package.get("vulns", ()):
            ids = [advisory["id"], *advisory.get("aliases", ())]
            if not any(one in page for one in ids):
                fixed = ", ".join(advisory.get("fix_versions", ())) or "no version"
                lines.append(f"{package['name']} {package['version']}: {', '.join(ids)}; fixed in {fixed}")
    return lines


def main() -> int:
    """0: all are known; 1: some are not; 2: nobody could be asked."""
    try:
        report = json.loads(audit())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(said[-1] if said else "pip-audit said nothing.", file=sys.stderr)
        print(
            "No advisories were read: this needs uv, and a way to the Python Package Index itself. docs/advisories.md has those of its date."
        )
        return 2
    lines = unknown(report, PAGE.read_text())
    for line in lines:
        print(line)
    count = sum(len(package.get("vulns", ())) for package in report["dependencies"])
    print(f"{len(report['dependencies'])} packages, {count} advisories, {len(lines)} that docs/advisories.md does not name.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
