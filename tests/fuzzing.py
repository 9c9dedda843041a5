"""What fuzz tests share: how many cases each gets and has had, and what nobody thinks of sending.

The profile says how many cases: ``fast``, always the same ones, in every test run; ``long`` by `make fuzz`.
"""

import functools
import inspect
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from assistant import ROOT

RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"
CASES: "Counter[str]" = Counter()  # test -> cases so far

_EVERYWHERE = {
    "deadline": None,  # a busy machine is no failure
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
}
settings.register_profile("fast", max_examples=300, derandomize=True, **_EVERYWHERE)
settings.register_profile("long", max_examples=10_000, **_EVERYWHERE)


def cases(share: float) -> int:
    """Of a test that gets this share of what one usually gets."""
    return max(1, round(share * settings.default.max_examples))


def fuzz(share: float = 1.0, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hypothesis's `given`, counted; `share` says how many cases more, or fewer, than other tests it gets."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @settings(max_examples=cases(share))
        @given(**strategies)
        @functools.wraps(test)
        def counted(*args: Any, **values: Any) -> None:
            CASES[test.__name__] += 1
            test(*args, **values)

        return counted

    return decorate


def fuzz_changed(valid: Sequence[bytes], share: float = 1.0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `fuzz`, with nothing but bytes that were valid before something happened to them, `MUTANTS` of them a seed: cheap."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: Any, seed: int, **fixtures: Any) -> None:
            rng = random.Random(seed)
            for _ in range(MUTANTS):
                content = bytearray(rng.choice(valid))
                for _ in range(rng.randint(1, 4)):
                    CHANGES[rng.choice(list(CHANGES))](content, rng.randint(0, len(content)), rng)
                CASES[test.__name__] += 1
                try:
                    test(*args, content=bytes(content), **fixtures)
                except BaseException:
                    note(f"content={bytes(content)!r}")
                    raise

        functools.update_wrapper(counted, test)
        fixtures = [some for name, some in inspect.signature(test).parameters.items() if name != "content"]
        seed = inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY)
        counted.__signature__ = inspect.Signature([*fixtures, seed])  # type: ignore[attr-defined]
        return settings(max_examples=cases(share / 4))(given(seed=st.integers(0, 2**64))(counted))

    return decorate


def report() -> List[str]:
    """The cases that each test has had, and their sum; kept in `RESULT`, which docs quote. Tests that did not run keep theirs."""
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    cases = {**{name: count for name, count in before.items() if name != "total"}, **CASES}
    counted: Dict[str, int] = {**dict(sorted(cases.items())), "total": sum(cases.values())}
    RESULT.write_text(json.dumps(counted, indent=1) + "\n")
    return [f"{count:>10,}  {name}" for name, count in counted.items()]


def assert_words(error: Exception, most: int = 500) -> None:
    """What is said of an error ends up in logs and on screens: a line of text, and no more of what came than helps."""
    assert 0 < len(str(error)) <= most and str(error).isprintable(), repr(str(error))[: 2 * most]


# ---------------------------------------------------------------- what may come

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, 8000.0, 16000.0, 1e308, float("inf"), float("nan"), "nan", "1e999", ""])
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["\0", "\ud800", "\n", "a\x1b[2J", "audio/a.wav", "../a.wav", "/greet", "x" * 5000])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4),
    max_leaves=8,
)


def objects(names: List[str]) -> "st.SearchStrategy[Dict[str, Any]]":
    """Objects of JSON whose fields mostly have these names."""
    return st.dictionaries(st.sampled_from(names) | st.text(st.characters(), max_size=8), values, max_size=4)


def _cut(content: bytearray, at: int, rng: random.Random) -> None:
    del content[at:]


def _lose(content: bytearray, at: int, rng: random.Random) -> None:
    del content[at : at + rng.randint(1, 16)]


def _double(content: bytearray, at: int, rng: random.Random) -> None:
    content[at:at] = content[at : at + rng.randint(1, 16)]


def _insert(content: bytearray, at: int, rng: random.Random) -> None:
    content[at:at] = rng.randbytes(rng.randint(1, 16))


def _number(content: bytearray, at: int, rng: random.Random) -> None:
    """A length or a rate, mostly, and large."""
    number = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    content[at : at + 4] = number.to_bytes(4, rng.choice(["little", "big"]))


def _bit(content: bytearray, at: int, rng: random.Random) -> None:
    if at < len(content):
        content[at] ^= 1 << rng.randint(0, 7)


CHANGES = {change.__name__: change for change in (_cut, _lose, _double, _insert, _number, _bit)}
MUTANTS = 100


def as_json(content: "st.SearchStrategy[Any]") -> "st.SearchStrategy[str]":
    """Also what JSON has not got by its standard: Python reads NaN, and halves of characters."""
    return content.map(lambda some: json.dumps(some))


def put_into(content: Any, path: List[Any], value: Any) -> Any:
    """A copy of JSON-like `content` with `value` at `path`."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = put_into(content[path[0]], path[1:], value)
    return copy


def paths(content: Any) -> List[List[Any]]:
    """Every place in JSON-like `content`."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [[], *([key, *rest] for key, some in inner for rest in paths(some))]


def tampered(valid: Any) -> "st.SearchStrategy[Any]":
    """JSON-like `valid` with something else at one or two of its places."""

    @st.composite
    def change(draw: Any) -> Any:
        content = valid
        for _ in range(draw(st.integers(1, 2))):
            content = put_into(content, draw(st.sampled_from(paths(content))), draw(values))
        return content

    return change()


def write(file: Path, content: bytes) -> Path:
    """`file`, with this content."""
    file.write_bytes(content)
    return file
