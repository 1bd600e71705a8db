"""What an agent may spend, where, and who is asked first. Pure: no clock, no file.

A budget bounds what the agent authorises: the growth of the cumulative it signs, which is the most that
vendors can ever claim. Signing up to what is signed already costs no budget, so a call that was not served
leaves its budget to the next one. What was authorised on one day may be charged on the next.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from machpay.client.errors import BudgetExceededError, ConfigError, NotAllowedError
from machpay.client.terms import origin_of

BudgetName = Literal["call", "day", "vendor"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the approval callback decides on: one call, and the most it may cost. Keys in base58."""

    url: str
    method: str
    price_atomic: int
    gateway: str
    vendor: str


Approve = Callable[[Proposal], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The limits of one agent, in atomic units; None means there is none. Days are UTC.

    `per_call_atomic` bounds what one call may authorise, repeated attempts included; `per_day_atomic` the sum
    of a day; `per_vendor_atomic` what each vendor may get of it, and `vendors_atomic` the same for single
    vendors by their base58 key. With `allowed_origins` (URLs of gateways) or `allowed_vendors` (keys) nobody
    else is called or paid. Whose a gateway is is read from the chain, once; without an `rpc_url` it is the gateway's
    word. `approve` is asked once per call, before anything is signed, when the price is at
    least `approve_from_atomic`; it may be a coroutine function.
    """

    per_call_atomic: int | None = None
    per_day_atomic: int | None = None
    per_vendor_atomic: int | None = None
    vendors_atomic: Mapping[str, int] = field(default_factory=dict)
    allowed_origins: Collection[str] | None = None
    allowed_vendors: Collection[str] | None = None
    approve: Approve | None = None
    approve_from_atomic: int = 0

    def __post_init__(self) -> None:
        limits = (self.per_call_atomic, self.per_day_atomic, self.per_vendor_atomic)
        for limit in (*limits, *self.vendors_atomic.values(), self.approve_from_atomic):
            if limit is not None and limit < 0:
                raise ConfigError("a budget must not be negative")
        if isinstance(self.allowed_origins, str) or isinstance(self.allowed_vendors, str):
            raise ConfigError("allowed_origins and allowed_vendors are collections of texts, not one text")
        if self.allowed_origins is not None:
            origins = frozenset(origin_of(origin) for origin in self.allowed_origins)
            object.__setattr__(self, "allowed_origins", origins)

    @property
    def counts_days(self) -> bool:
        """Whether what is spent in a day has to be kept."""
        return (
            self.per_day_atomic is not None or self.per_vendor_atomic is not None or bool(self.vendors_atomic)
        )

    @property
    def names_vendors(self) -> bool:
        """Whether any rule asks whom a payment goes to."""
        return (
            self.allowed_vendors is not None
            or self.per_vendor_atomic is not None
            or bool(self.vendors_atomic)
        )

    def check_origin(self, url: str, origin: str) -> None:
        """Raises `NotAllowedError` unless this origin may be called."""
        if self.allowed_origins is not None and origin not in self.allowed_origins:
            raise NotAllowedError(url, f"origin {origin} is not on the agent's allow-list")

    def check_vendor(self, url: str, vendor: str) -> None:
        """Raises `NotAllowedError` unless this vendor may be paid."""
        if self.allowed_vendors is not None and vendor not in self.allowed_vendors:
            raise NotAllowedError(url, f"vendor {vendor} is not on the agent's allow-list")

    def asks_about(self, price_atomic: int) -> bool:
        """Whether somebody has to approve this price."""
        return self.approve is not None and price_atomic >= self.approve_from_atomic

    def grant(
        self, spent_today: Mapping[str, int], vendor: str, *, least: int, wanted: int, spent_in_call: int
    ) -> int:
        """How much a signature may authorise: `wanted`, or less but at least `least`.

        `spent_today` is what was authorised today, by vendor. Raises `BudgetExceededError` naming the
        narrowest budget that `least` does not fit in.
        """
        if self.per_call_atomic is None and not self.counts_days:
            return wanted
        vendor_limit = self.vendors_atomic.get(vendor, self.per_vendor_atomic)
        budgets: list[tuple[BudgetName, int | None, int]] = [
            ("call", self.per_call_atomic, spent_in_call),
            ("vendor", vendor_limit, spent_today.get(vendor, 0)),
            ("day", self.per_day_atomic, sum(spent_today.values())),
        ]
        granted = wanted
        for name, limit, spent in budgets:
            if limit is None:
                continue
            # Nothing new is authorised at a growth of 0, whatever was spent.
            if 0 < least > limit - spent:
                raise BudgetExceededError(
                    name, limit_atomic=limit, spent_atomic=spent, needed_atomic=least, vendor=vendor
                )
            granted = min(granted, max(0, limit - spent))
        return granted
