"""The program's accounts, decoded from their bytes.

One frozen dataclass per account kind; `decode` checks discriminator, version and length and raises `DecodeError`.
Byte offsets are documented in docs/program.md and fixed in contracts/program/src/state/; this module reads them and
never writes. Amounts are atomic units of the mint, times unix seconds, all-zero keys read as None.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

from solders.pubkey import Pubkey

from machpay.chain.errors import DecodeError

LAYOUT_VERSION: Final = 1
_ZERO_KEY: Final = bytes(32)


@cache
def discriminator(name: str) -> bytes:
    """Anchor's account discriminator: the first 8 bytes of sha256("account:<Name>")."""
    return hashlib.sha256(f"account:{name}".encode()).digest()[:8]


def _unpack(layout: struct.Struct, name: str, data: bytes) -> tuple[int, tuple[Any, ...]]:
    """Check the header and split the body. Returns (bump, the fields after the bump)."""
    if data[:8] != discriminator(name):
        raise DecodeError(f"not a {name} account")
    if len(data) != layout.size:
        raise DecodeError(f"a {name} account has {layout.size} bytes, not {len(data)}")
    _, version, bump, *fields = layout.unpack(data)
    if version != LAYOUT_VERSION:
        raise DecodeError(f"{name} layout version {version} is unknown (this code reads {LAYOUT_VERSION})")
    return bump, tuple(fields)


def _optional(key: bytes) -> Pubkey | None:
    return None if key == _ZERO_KEY else Pubkey(key)


@dataclass(frozen=True, slots=True)
class GlobalBond:
    """Configuration of one mint, `["bond", mint]`, and the authority over its vault.

    `treasury` and `admin` are wallets, `vault` a token account. `agent_bond_cap` 0 means no cap.
    `batch_sequence` is the number of batches committed so far, `batch_head` the hash chain over them.
    """

    bump: int
    decimals: int
    deposits_paused: bool
    allow_list: bool
    vault_bump: int
    reporter_bps: int
    mint: Pubkey
    vault: Pubkey
    admin: Pubkey
    pending_admin: Pubkey | None
    relayer: Pubkey
    treasury: Pubkey
    domain: bytes
    min_bond: int
    timelock: int
    claim_delay: int
    agent_bond_cap: int
    batch_sequence: int
    batch_head: bytes
    event_authority_bump: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, f = _unpack(_GLOBAL_BOND, "GlobalBond", data)
        decimals, paused, allow_list, vault_bump, reporter_bps = f[:5]
        mint, vault, admin, pending_admin, relayer, treasury, domain = f[5:12]
        return cls(
            bump,
            decimals,
            bool(paused),
            bool(allow_list),
            vault_bump,
            reporter_bps,
            Pubkey(mint),
            Pubkey(vault),
            Pubkey(admin),
            _optional(pending_admin),
            Pubkey(relayer),
            Pubkey(treasury),
            domain,
            *f[12:],
        )


@dataclass(frozen=True, slots=True)
class AgentAccount:
    """The bond of one agent, `["agent", mint, agent]`.

    The lifetime counters make the account reconcilable by itself, at every slot:
    `bond + forfeited == deposited_total - paid_total - withdrawn_total - swept_total`.
    `paid_total` counts what left for vendors, whether transferred or moved to a channel's `owed`.
    `open_claims` is the sum over channels of what pending claims still ask for.
    `reporter_set_aside` is the part of `forfeited` meant for the reporter.
    """

    bump: int
    slashed: bool
    agent: Pubkey
    mint: Pubkey
    owner: Pubkey
    bond: int
    open_claims: int
    pending_withdrawal: int
    withdrawal_unlock: int
    forfeited: int
    reporter: Pubkey | None
    reporter_set_aside: int
    window_end: int
    deposited_total: int
    paid_total: int
    withdrawn_total: int
    swept_total: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, f = _unpack(_AGENT_ACCOUNT, "AgentAccount", data)
        slashed, agent, mint, owner, *amounts, reporter, set_aside, window_end = f[:12]
        bond, open_claims, pending_withdrawal, withdrawal_unlock, forfeited = amounts
        return cls(
            bump=bump,
            slashed=bool(slashed),
            agent=Pubkey(agent),
            mint=Pubkey(mint),
            owner=Pubkey(owner),
            bond=bond,
            open_claims=open_claims,
            pending_withdrawal=pending_withdrawal,
            withdrawal_unlock=withdrawal_unlock,
            forfeited=forfeited,
            reporter=_optional(reporter),
            reporter_set_aside=set_aside,
            window_end=window_end,
            deposited_total=f[12],
            paid_total=f[13],
            withdrawn_total=f[14],
            swept_total=f[15],
        )


@dataclass(frozen=True, slots=True)
class VendorAccount:
    """Where a vendor is paid, `["vendor", authority]`. `payout` is a token account of `mint`, `price_atomic` the
    price of one request where no route says otherwise."""

    bump: int
    authority: Pubkey
    mint: Pubkey
    payout: Pubkey
    price_atomic: int
    metadata_uri: str

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, (uri_length, authority, mint, payout, price, uri) = _unpack(
            _VENDOR_ACCOUNT, "VendorAccount", data
        )
        try:
            text = uri[:uri_length].decode()
        except UnicodeDecodeError as error:
            raise DecodeError("the vendor's metadata URI is not UTF-8") from error
        return cls(bump, Pubkey(authority), Pubkey(mint), Pubkey(payout), price, text)


@dataclass(frozen=True, slots=True)
class GatewayAccount:
    """Which vendor (its authority's key) a gateway serves for ever, `["gateway", gateway]`. `revoked` is one-way."""

    bump: int
    revoked: bool
    gateway: Pubkey
    vendor: Pubkey
    registered_at: int
    revoked_at: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, (revoked, gateway, vendor, registered_at, revoked_at) = _unpack(
            _GATEWAY_ACCOUNT, "GatewayAccount", data
        )
        return cls(bump, bool(revoked), Pubkey(gateway), Pubkey(vendor), registered_at, revoked_at)


@dataclass(frozen=True, slots=True)
class Channel:
    """One agent paying one gateway, `["channel", domain, mint, agent, gateway]`.

    `settled` is the watermark: everything paid or moved to `owed` so far, so `settled - owed` reached the vendor.
    `vendor` is the authority key of the vendor the gateway served when the channel opened. A pending claim has
    `claim_cumulative > settled` and executes from `claim_unlock` on.
    """

    bump: int
    agent: Pubkey
    gateway: Pubkey
    vendor: Pubkey
    mint: Pubkey
    settled: int
    owed: int
    claim_cumulative: int
    claim_unlock: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, f = _unpack(_CHANNEL, "Channel", data)
        agent, gateway, vendor, mint = (Pubkey(key) for key in f[:4])
        return cls(bump, agent, gateway, vendor, mint, *f[4:])


@dataclass(frozen=True, slots=True)
class Batch:
    """One anchored Merkle root, `["batch", mint, sequence]`. `total` is the sum charged in it, `head` the chain hash
    after it."""

    bump: int
    mint: Pubkey
    sequence: int
    root: bytes
    leaf_count: int
    total: int
    head: bytes
    committed_at: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        bump, (mint, *rest) = _unpack(_BATCH, "Batch", data)
        return cls(bump, Pubkey(mint), *rest)


Account = GlobalBond | AgentAccount | VendorAccount | GatewayAccount | Channel | Batch

# Header of each: discriminator 8, version 1, bump 1. Bodies are padded so that every u64 sits on a multiple of 8.
_GLOBAL_BOND: Final = struct.Struct("<8sBB BBBBH 32s32s32s32s32s32s32s QqqQQ 32s B 135x")
_AGENT_ACCOUNT: Final = struct.Struct("<8sBB B5x 32s32s32s QQQqQ 32s Qq QQQQ 56x")
_VENDOR_ACCOUNT: Final = struct.Struct("<8sBB H4x 32s32s32s Q 128s 64x")
_GATEWAY_ACCOUNT: Final = struct.Struct("<8sBB B5x 32s32s qq 32x")
_CHANNEL: Final = struct.Struct("<8sBB 6x 32s32s32s32s QQQq 32x")
_BATCH: Final = struct.Struct("<8sBB 6x 32s Q 32s QQ 32s q 32x")

_KINDS: Final[dict[bytes, type[Account]]] = {
    discriminator(kind.__name__): kind
    for kind in (GlobalBond, AgentAccount, VendorAccount, GatewayAccount, Channel, Batch)
}


def is_unwritten(data: bytes) -> bool:
    """The program never wrote this account: anybody may create one that it owns, but only of zeros. Who lists the
    program's accounts passes over it."""
    return not any(data)


def decode_account(data: bytes) -> Account:
    """Decode whichever account kind `data` holds. Raises `DecodeError` for anything that is not the program's."""
    kind = _KINDS.get(bytes(data[:8]))
    if kind is None:
        raise DecodeError("not an account of the MachPay program")
    return kind.decode(data)


GLOBAL_BOND_LENGTH: Final = _GLOBAL_BOND.size
CHANNEL_LENGTH: Final = _CHANNEL.size
VENDOR_LENGTH: Final = _VENDOR_ACCOUNT.size
GATEWAY_LENGTH: Final = _GATEWAY_ACCOUNT.size
