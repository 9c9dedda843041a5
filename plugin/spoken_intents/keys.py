"""Keys of a telephone that are one turn together."""

import json
from typing import List

INTENT, MAX_KEYS = "dtmf", 32


class Keys:
    """Gathers keys up to ``#``, so many of them, or a pause.

    Args:
        length: Keys that make a turn; 0: only `MAX_KEYS` do.
        pause_samples: Without a key, that end it.
    """

    def __init__(self, length: int, pause_samples: int) -> None:
        self._length = length or MAX_KEYS
        self._pause_samples = pause_samples
        self._pressed, self._at = "", 0

    @property
    def waiting(self) -> bool:
        """Whether some are pressed, and more may follow."""
        return bool(self._pressed)

    def press(self, keys: str, now: int) -> List[str]:
        """The turns that end with `keys`, pressed at sample `now`."""
        turns = []
        for key in keys:
            if key != "#":
                self._pressed, self._at = self._pressed + key, now
            if key == "#" or len(self._pressed) == self._length:
                turns += self.end()
        return turns

    def due(self, now: int) -> List[str]:
        """The turn that has ended by a pause at sample `now`, if one has."""
        return self.end() if self._pressed and now - self._at >= self._pause_samples else []

    def end(self) -> List[str]:
        """The turn under way, which ends now; none when there is none."""
        pressed, self._pressed = self._pressed, ""
        return [pressed] if pressed else []


def payload(keys: str) -> str:
    """The turn as Rasa understands it without NLU."""
    return f"/{INTENT}{json.dumps({'digits': keys})}"
