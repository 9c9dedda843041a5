"""The figures of docs/scaling.md."""

import re

import pytest
import sizing

from assistant import ROOT


def test_the_tables_are_those_of_the_figures(capsys: pytest.CaptureFixture) -> None:
    sizing.main()
    printed = capsys.readouterr().out.strip()
    assert (
        re.search(r"<!-- sizing -->\n(.*)\n<!-- /sizing -->", (ROOT / "docs/scaling.md").read_text(), re.S)[1].strip() == printed
    )


@pytest.mark.parametrize("wire", sizing.WIRES)
def test_a_call_needs_what_its_messages_need(wire: str) -> None:
    """Audio, at the least, and no more than all that is around it could add."""
    rate, samples, size, _ = sizing.WIRES[wire]
    audio, messages = rate * size, rate / samples
    assert audio + messages * 80 < sizing.up(wire) < 4 / 3 * audio + messages * 330
    assert 4 / 3 * audio < sizing.down(wire) < 1.5 * audio
