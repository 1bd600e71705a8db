"""How far above the known total a client signs, so that several processes can share one key. Pure.

Alone, a process knows every total and needs none. When another process pays the same gateway, totals move
between two of our answers; each `cumulative_too_low` doubles the headroom from one price, calm lets it shrink
again. The cap is also the most that a gateway may ever hold signed and unproven.
"""

from typing import Final

MAX_PRICES: Final = 64
CALM_PAYMENTS: Final = 64
"""After this many accepted payments in a row the headroom halves."""


class Headroom:
    """The headroom of one channel, in prices."""

    __slots__ = ("_calm", "prices")

    def __init__(self) -> None:
        self.prices = 0
        self._calm = 0

    def too_low(self, signed_with: int) -> None:
        """A payment was refused as too low; `signed_with` is the headroom it was signed with.

        Sixteen payments in flight that fail together are one event: only those signed with the present
        headroom double it.
        """
        self._calm = 0
        if signed_with >= self.prices:
            self.prices = min(MAX_PRICES, max(1, 2 * self.prices))

    def accepted(self) -> None:
        """A payment was accepted."""
        if not self.prices:
            return
        self._calm += 1
        if self._calm >= CALM_PAYMENTS:
            self.prices //= 2
            self._calm = 0
