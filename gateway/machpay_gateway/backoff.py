"""Growing pauses between attempts that go on for ever."""

import random


class Backoff:
    """Doubles from `first_s` to `most_s`, with up to a quarter of jitter so that gateways do not return in step."""

    def __init__(self, first_s: float = 0.25, most_s: float = 10.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause = self._next_s
        self._next_s = min(self._most_s, pause * 2)
        return pause * random.uniform(0.75, 1.0)  # noqa: S311 - jitter, nothing secret
