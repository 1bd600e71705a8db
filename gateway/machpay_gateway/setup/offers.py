"""Routes and prices as people write them: `GET /embed=0.001 Embed one text`, in USDC, a `*` at the end for a prefix."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from machpay_gateway.errors import ConfigError
from machpay_gateway.routes import METHODS

ATOMIC_PER_USDC: Final = 1_000_000
_ROUTE: Final = re.compile(
    r"(?:(?P<method>[A-Za-z]+)\s+)?(?P<path>/[^\s=]*)(?:\s*=\s*(?P<price>\S+)(?:\s+(?P<text>.+))?)?"
)
_PRICE: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class OfferedRoute:
    """One route of a new configuration; `price_atomic` 0 is free."""

    method: str
    path: str
    match: str
    price_atomic: int
    description: str

    def to_table(self) -> dict[str, Any]:
        """The `[[routes]]` table, without what is the default."""
        table: dict[str, Any] = {"method": self.method, "path": self.path}
        if self.match != "exact":
            table["match"] = self.match
        table["price_atomic"] = self.price_atomic
        if self.description:
            table["description"] = self.description
        return table


def parse_usdc(text: str) -> int:
    """Atomic units from USDC with at most six decimals. Raises `ConfigError`."""
    if not _PRICE.fullmatch(text):
        raise ConfigError(f"{text!r} is no price in USDC: write it like 0.001, with at most 6 decimals")
    return int(Decimal(text) * ATOMIC_PER_USDC)


def parse_route(text: str, *, free: bool = False) -> OfferedRoute:
    """`[METHOD ]/path[*]=price[ description]`, or without a price if `free`. Raises `ConfigError`."""
    found = _ROUTE.fullmatch(text.strip())
    if found is None or (found["price"] is None) != free:
        wanted = '"GET /status"' if free else '"GET /embed=0.001 Embed one text"'
        raise ConfigError(f"{text!r} is no route: write it like {wanted}")
    method = (found["method"] or "GET").upper()
    if method not in METHODS:
        raise ConfigError(f"{text!r}: the method must be one of {', '.join(sorted(METHODS))}")
    path = found["path"]
    match = "prefix" if path.endswith("*") else "exact"
    price = 0 if free else parse_usdc(found["price"])
    if price == 0 and not free:
        raise ConfigError(f"{text!r}: a price of 0 is a free route; use --free")
    return OfferedRoute(method, path.removesuffix("*"), match, price, found["text"] or "")
