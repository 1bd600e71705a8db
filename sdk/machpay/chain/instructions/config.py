"""Builders of what the admin does: change a mint's configuration, hand the office over."""

from dataclasses import dataclass

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from machpay.chain.instructions.base import instruction, pack, writable
from machpay.chain.network import Network


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What `set_config` changes; None leaves a value as it is.

    `min_bond` can only be lowered. `pending_admin` is who may become admin by `accept_admin`; the zero key takes a
    proposal back. Bounds are those of `BondConfig`.
    """

    pending_admin: Pubkey | None = None
    relayer: Pubkey | None = None
    treasury: Pubkey | None = None
    min_bond: int | None = None
    timelock: int | None = None
    claim_delay: int | None = None
    agent_bond_cap: int | None = None
    reporter_bps: int | None = None
    deposits_paused: bool | None = None
    allow_list: bool | None = None


def set_config(network: Network, *, admin: Pubkey, change: ConfigChange) -> Instruction:
    """Change the mint's configuration. Signer: admin."""
    arguments = (
        _key(change.pending_admin)
        + _key(change.relayer)
        + _key(change.treasury)
        + _option("Q", change.min_bond)
        + _option("q", change.timelock)
        + _option("q", change.claim_delay)
        + _option("Q", change.agent_bond_cap)
        + _option("H", change.reporter_bps)
        + _option("?", change.deposits_paused)
        + _option("?", change.allow_list)
    )
    accounts = [writable(network.bond()), AccountMeta(admin, True, False)]
    return instruction(network, "set_config", arguments, accounts)


def accept_admin(network: Network, *, pending_admin: Pubkey) -> Instruction:
    """Become admin, after `set_config` proposed it. Signer: pending_admin."""
    accounts = [writable(network.bond()), AccountMeta(pending_admin, True, False)]
    return instruction(network, "accept_admin", b"", accounts)


def _option(layout: str, value: object) -> bytes:
    """Borsh's option: 0, or 1 and the value."""
    return b"\0" if value is None else b"\1" + pack(f"<{layout}", value)


def _key(value: Pubkey | None) -> bytes:
    return _option("32s", None if value is None else bytes(value))
