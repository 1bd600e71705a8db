"""Builders of the registry: vendors and their gateways."""

from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

from machpay.chain.instructions.base import instruction, pack, readonly, writable
from machpay.chain.network import Network

METADATA_URI_LENGTH_MAX: Final = 128


def register_vendor(
    network: Network,
    *,
    authority: Pubkey,
    payout: Pubkey,
    price: int,
    metadata_uri: str = "",
    payer: Pubkey | None = None,
) -> Instruction:
    """Register the vendor `authority`, paid into the token account `payout`. Signers: authority, payer."""
    accounts = [
        writable(network.vendor_account(authority)),
        AccountMeta(authority, True, False),
        AccountMeta(payer or authority, True, True),
        readonly(network.bond()),
        readonly(payout),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return instruction(network, "register_vendor", _description(price, metadata_uri), accounts)


def update_vendor(
    network: Network, *, authority: Pubkey, payout: Pubkey, price: int, metadata_uri: str
) -> Instruction:
    """Replace payout account, price and metadata URI of the vendor `authority`. Signer: authority."""
    accounts = [
        writable(network.vendor_account(authority)),
        AccountMeta(authority, True, False),
        readonly(network.bond()),
        readonly(payout),
    ]
    return instruction(network, "update_vendor", _description(price, metadata_uri), accounts)


def register_gateway(
    network: Network, *, gateway: Pubkey, authority: Pubkey, payer: Pubkey | None = None
) -> Instruction:
    """Bind `gateway` to the vendor `authority` for ever. Signers: gateway, authority, payer."""
    accounts = [
        writable(network.gateway_account(gateway)),
        AccountMeta(gateway, True, False),
        readonly(network.vendor_account(authority)),
        AccountMeta(authority, True, False),
        AccountMeta(payer or authority, True, True),
        readonly(SYSTEM_PROGRAM_ID),
    ]
    return instruction(network, "register_gateway", b"", accounts)


def revoke_gateway(network: Network, *, gateway: Pubkey, authority: Pubkey) -> Instruction:
    """Revoke `gateway` for ever; its channels keep paying the same vendor. Signer: the vendor, `authority`."""
    accounts = [writable(network.gateway_account(gateway)), AccountMeta(authority, True, False)]
    return instruction(network, "revoke_gateway", b"", accounts)


def _description(price: int, metadata_uri: str) -> bytes:
    """A vendor's price, and its URI as borsh writes a string."""
    uri = metadata_uri.encode()
    if len(uri) > METADATA_URI_LENGTH_MAX:
        raise ValueError(f"metadata_uri is longer than {METADATA_URI_LENGTH_MAX} bytes")
    return pack("<QI", price, len(uri)) + uri
