"""The licences of everything that requirements.lock pins: `python scripts/licences.py` writes docs/licences.md.

A package's licence is what its metadata says, so it must be installed (`make setup`). What is locked for other machines alone
is named in `ELSEWHERE`.
"""

import re
from functools import lru_cache
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Dict, List, Set

import tomli
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK, PAGE = ROOT / "requirements.lock", ROOT / "docs/licences.md"
OURS = "rasa-spoken-intents"
PARTS = ("", "train", "mic", "silero", "espeak", "dev")  # a package is listed with the first that needs it
ELSEWHERE = {"tensorflow-cpu-aws": "Apache-2.0", "tensorflow-macos": "Apache-2.0"}
NONE = "none in its metadata"
CLASSIFIERS = {  # where a package has no more than these
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "proprietary",
}
SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "mit license": "MIT",
    "mpl 2.0": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "nvidia proprietary software": "proprietary",
    "licenseref-nvidia-proprietary": "proprietary",
}
# Anything that asks for more than to keep its notice, and what says nothing.
NOTES = {
    "bidict": "Copyleft for its own files only, which are used unchanged.",
    "certifi": "Copyleft for its own files only, which are used unchanged.",
    "cuda-toolkit": "Holds nothing itself: it names NVIDIA's packages below.",
    "espeakng-loader": "The wheel holds eSpeak NG, which is GPL-3.0-or-later. So it is an extra, and nothing else needs it: the "
    "plugin loads the library into its process, and who hands on both together does so under the GPL. Piper, an engine of your own "
    "or the browser's voice do without.",
    "hypothesis": "Copyleft for its own files only, which are used unchanged; for tests.",
    "matplotlib": "As permissive as BSD. Its wheel has fonts with notices of their own.",
    "numpy": "Its wheel holds OpenBLAS (BSD) and libgfortran (GPL with the runtime exception, which lets anybody use it).",
    "pathspec": "Copyleft for its own files only, which are used unchanged; for the type checker.",
    "psycopg2-binary": "Imported unchanged, by Rasa, where conversations are in PostgreSQL; it may be replaced by another build, "
    "which is what the LGPL asks for.",
    "scipy": "Its wheel holds OpenBLAS (BSD) and libgfortran (GPL with the runtime exception, which lets anybody use it).",
    "soundfile": "The wheel holds libsndfile, which is LGPL-2.1-or-later: a library of its own that may be replaced.",
    "soxr": "The wheel holds libsoxr under the same licence; both may be replaced by other builds, which is what the LGPL asks for.",
    "tqdm": "Copyleft for its own files only, which are used unchanged.",
}
NVIDIA = (
    "NVIDIA's terms for CUDA: to be used, and handed on with an application, but not changed. For training on Linux; PyTorch's "
)
NVIDIA += "builds for processors alone do without."
HEAD = """# Licences

This project is under the [Apache License 2.0](../LICENSE). So are most of the packages that it needs, or under MIT or BSD licences,
which ask for their notices to be kept. This page is about each package of `requirements.lock`; its metadata says what its licence
is, and `python scripts/licences.py` wrote it down. It is no legal advice. The assistant's recordings and the base model have cards of
their own: [corpus](../corpus/README.md), [whisper-mini](../training/spoken_intents_training/base_models/whisper-mini/README.md).

An installation for running an assistant alone holds what is listed under "to run"; extras add to it.
"""


def locked() -> List[str]:
    """The packages that requirements.lock pins."""
    return re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.M)


def licence(package: Distribution) -> str:
    """What its metadata says, briefly."""
    said = (package.metadata.get("License-Expression") or package.metadata.get("License") or "").strip()
    if said.lower() in SPELLINGS:
        return SPELLINGS[said.lower()]
    if said and said != "UNKNOWN" and len(said) < 40 and said not in ("BSD", "Dual License"):
        return said
    classifiers = [one.split(" :: ")[-1] for one in package.metadata.get_all("Classifier") or [] if one.startswith("License ::")]
    named = [CLASSIFIERS.get(one, one) for one in classifiers if one != "OSI Approved"]
    return " or ".join(named) or (said if said and len(said) < 40 else NONE)


def needed(part: str) -> Set[str]:
    """What is installed with one of our extras, or, where it is empty, with none."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*(project["optional-dependencies"][part] if part else project["dependencies"])]
    found: Set[str] = set()
    while asked:
        requirement = Requirement(asked.pop())
        name = canonical(requirement.name)
        for extra in ("", *requirement.extras):
            key = f"{name}[{extra}]"
            if name != OURS and key not in found:
                found.add(key)
                asked += [line for line in requires(name) if applies(Requirement(line), extra)]
    return {key.partition("[")[0] for key in found}


@lru_cache(maxsize=None)
def requires(name: str) -> List[str]:
    """What an installed package needs, as its metadata writes it."""
    return distribution(name).requires or []


def applies(requirement: Requirement, extra: str) -> bool:
    """Whether this machine needs it, with an extra of what asks for it."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def canonical(name: str) -> str:
    """As the lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences() -> Dict[str, str]:
    """Each locked package's licence.

    Raises:
        PackageNotFoundError: One is not installed, and not known to be for other machines.
    """
    return {name: ELSEWHERE.get(name) or licence(distribution(name)) for name in locked()}


def page() -> str:
    """The page's text."""
    found, listed, text = licences(), set(), HEAD
    for part in PARTS:
        with_it = needed(part)
        rows = [name for name in found if name not in listed and (name in with_it or (not part and name in ELSEWHERE))]
        listed.update(rows)
        text += f"\n## {f'With the extra `{part}`' if part else 'To run'}\n\n| package | licence | |\n|---|---|---|\n"
        text += "".join(f"| {name} | {found[name]} | {note(name, found[name])} |\n" for name in rows)
    missing = set(found) - listed
    if missing:
        raise ValueError(f"Nothing needs {', '.join(sorted(missing))}: is requirements.lock of this pyproject.toml?")
    return text


def note(name: str, its: str) -> str:
    """What there is to say of a licence."""
    return NOTES.get(name) or (NVIDIA if its == "proprietary" else "")


if __name__ == "__main__":
    PAGE.write_text(page())
