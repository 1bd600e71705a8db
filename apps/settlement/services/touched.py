"""Which accounts the program's events touched. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from solders.pubkey import Pubkey

from apps.payments.services.chain_index import IndexedEvent
from machpay.chain.network import Network


@dataclass(slots=True)
class Touched:
    """Whose accounts moved: agents, gateways and vendors by key, channels by address."""

    agents: set[str] = field(default_factory=set)
    channels: set[str] = field(default_factory=set)
    gateways: set[str] = field(default_factory=set)
    vendors: set[str] = field(default_factory=set)

    def addresses(self, network: Network) -> list[Pubkey]:
        """The accounts to read, the bond's first."""
        return [
            network.bond(),
            *(network.agent_account(Pubkey.from_string(key)) for key in sorted(self.agents)),
            *(Pubkey.from_string(address) for address in sorted(self.channels)),
            *(network.gateway_account(Pubkey.from_string(key)) for key in sorted(self.gateways)),
            *(network.vendor_account(Pubkey.from_string(key)) for key in sorted(self.vendors)),
        ]

    @property
    def count(self) -> int:
        return len(self.agents) + len(self.channels) + len(self.gateways) + len(self.vendors)


# The event's fields that name the account's owner. Gateways and vendors move by their own events only.
_REGISTRY = {
    "GatewayRegistered": "gateway",
    "GatewayRevoked": "gateway",
    "VendorRegistered": "authority",
    "VendorUpdated": "authority",
}


def touched_by(events: Iterable[IndexedEvent], *, mint: str) -> Touched:
    """The accounts behind `events`. Events of another token than `mint` touch none of ours."""
    touched = Touched()
    for event in events:
        if event.data.get("mint", mint) != mint:
            continue
        if event.kind.startswith("Gateway"):
            touched.gateways.add(event.data[_REGISTRY[event.kind]])
        elif event.kind.startswith("Vendor"):
            touched.vendors.add(event.data[_REGISTRY[event.kind]])
        else:
            _money(event.data, touched)
    return touched


def _money(data: Mapping[str, Any], touched: Touched) -> None:
    if "agent" in data:
        touched.agents.add(data["agent"])
    if "channel" in data:
        touched.channels.add(data["channel"])
    for each in data.get("channels", ()):
        _money(each, touched)


def transactions_of(events: Iterable[IndexedEvent]) -> dict[tuple[str, str], str]:
    """The newest transaction of each (kind of event, agent or channel): what to show beside an account's change."""
    found: dict[tuple[str, str], str] = {}
    for event in events:
        for name in (event.data.get("agent"), event.data.get("channel")):
            if name is not None:
                found[event.kind, name] = event.signature
        for each in event.data.get("channels", ()):
            found[event.kind, each["channel"]] = event.signature
    return found
