"""Account decoders, against bytes written by hand at the offsets of docs/program.md."""

import hashlib
import struct

import pytest
from solders.pubkey import Pubkey

from machpay.chain import accounts
from machpay.chain.errors import DecodeError

KEYS = [bytes([value]) * 32 for value in range(1, 12)]


def image(name: str, length: int, fields: dict[int, bytes]) -> bytes:
    """An account of `length` bytes: header, then `fields` by offset, zeros elsewhere."""
    data = bytearray(length)
    data[:8] = hashlib.sha256(f"account:{name}".encode()).digest()[:8]
    data[8:10] = bytes([1, 254])
    for offset, value in fields.items():
        data[offset : offset + len(value)] = value
    return bytes(data)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def i64(value: int) -> bytes:
    return struct.pack("<q", value)


GLOBAL_BOND = image(
    "GlobalBond",
    448,
    {
        10: b"\6\1\1\xfd",
        14: struct.pack("<H", 1_000),
        16: b"".join(KEYS[:7]),
        240: u64(1) + i64(2) + i64(3) + u64(4) + u64(5),
        280: KEYS[7] + b"\xfc",
    },
)
AGENT_ACCOUNT = image(
    "AgentAccount",
    288,
    {
        10: b"\1",
        16: b"".join(KEYS[:3]),
        112: u64(2**64 - 1) + u64(2) + u64(3) + i64(-4) + u64(5),
        152: KEYS[3] + u64(6) + i64(7),
        200: u64(8) + u64(9) + u64(10) + u64(11),
    },
)
VENDOR_ACCOUNT = image(
    "VendorAccount",
    312,
    {10: struct.pack("<H", 4), 16: b"".join(KEYS[:3]), 112: u64(9), 120: "ué!".encode() + b"rest"},
)
GATEWAY_ACCOUNT = image("GatewayAccount", 128, {10: b"\1", 16: b"".join(KEYS[:2]), 80: i64(5) + i64(6)})
CHANNEL = image("Channel", 208, {16: b"".join(KEYS[:4]), 144: u64(1) + u64(2) + u64(3) + i64(4)})
BATCH = image("Batch", 176, {16: KEYS[0] + u64(7) + KEYS[1] + u64(8) + u64(9) + KEYS[2] + i64(10)})
IMAGES = [GLOBAL_BOND, AGENT_ACCOUNT, VENDOR_ACCOUNT, GATEWAY_ACCOUNT, CHANNEL, BATCH]


def key(index: int) -> Pubkey:
    return Pubkey(KEYS[index])


def test_global_bond() -> None:
    assert accounts.GlobalBond.decode(GLOBAL_BOND) == accounts.GlobalBond(
        bump=254,
        decimals=6,
        deposits_paused=True,
        allow_list=True,
        vault_bump=253,
        reporter_bps=1_000,
        mint=key(0),
        vault=key(1),
        admin=key(2),
        pending_admin=key(3),
        relayer=key(4),
        treasury=key(5),
        domain=KEYS[6],
        min_bond=1,
        timelock=2,
        claim_delay=3,
        agent_bond_cap=4,
        batch_sequence=5,
        batch_head=KEYS[7],
        event_authority_bump=252,
    )


def test_agent_account() -> None:
    assert accounts.AgentAccount.decode(AGENT_ACCOUNT) == accounts.AgentAccount(
        bump=254,
        slashed=True,
        agent=key(0),
        mint=key(1),
        owner=key(2),
        bond=2**64 - 1,
        open_claims=2,
        pending_withdrawal=3,
        withdrawal_unlock=-4,
        forfeited=5,
        reporter=key(3),
        reporter_set_aside=6,
        window_end=7,
        deposited_total=8,
        paid_total=9,
        withdrawn_total=10,
        swept_total=11,
    )


def test_vendor_account_uses_only_the_bytes_of_the_uri() -> None:
    assert accounts.VendorAccount.decode(VENDOR_ACCOUNT) == accounts.VendorAccount(
        bump=254, authority=key(0), mint=key(1), payout=key(2), price_atomic=9, metadata_uri="ué!"
    )


def test_gateway_account() -> None:
    assert accounts.GatewayAccount.decode(GATEWAY_ACCOUNT) == accounts.GatewayAccount(
        bump=254, revoked=True, gateway=key(0), vendor=key(1), registered_at=5, revoked_at=6
    )


def test_channel() -> None:
    assert accounts.Channel.decode(CHANNEL) == accounts.Channel(
        bump=254,
        agent=key(0),
        gateway=key(1),
        vendor=key(2),
        mint=key(3),
        settled=1,
        owed=2,
        claim_cumulative=3,
        claim_unlock=4,
    )


def test_batch() -> None:
    assert accounts.Batch.decode(BATCH) == accounts.Batch(
        bump=254,
        mint=key(0),
        sequence=7,
        root=KEYS[1],
        leaf_count=8,
        total=9,
        head=KEYS[2],
        committed_at=10,
    )


def test_zero_keys_read_as_none() -> None:
    bond = accounts.GlobalBond.decode(image("GlobalBond", 448, {}))
    agent = accounts.AgentAccount.decode(image("AgentAccount", 288, {}))
    assert (bond.pending_admin, agent.reporter) == (None, None)


@pytest.mark.parametrize("data", IMAGES, ids=lambda data: type(accounts.decode_account(data)).__name__)
def test_each_kind_is_known_by_its_discriminator(data: bytes) -> None:
    account = accounts.decode_account(data)
    assert type(account).decode(data) == account


@pytest.mark.parametrize("data", IMAGES, ids=lambda data: type(accounts.decode_account(data)).__name__)
def test_another_length_version_or_kind_is_refused(data: bytes) -> None:
    kind = type(accounts.decode_account(data))
    wrong = [
        data[:-1],
        data + b"\0",
        data[:8] + b"\0" + data[9:],
        data[:8] + b"\2" + data[9:],
        bytes([data[0] ^ 1]) + data[1:],
        bytes(len(data)),
        b"",
        data[:7],
    ]
    for changed in wrong:
        with pytest.raises(DecodeError):
            kind.decode(changed)
        with pytest.raises(DecodeError):
            accounts.decode_account(changed)
    other = CHANNEL if kind is accounts.Batch else BATCH
    with pytest.raises(DecodeError, match="not a"):
        kind.decode(other)


def test_a_uri_that_is_no_text_is_refused() -> None:
    data = VENDOR_ACCOUNT[:120] + b"\xff" + VENDOR_ACCOUNT[121:]
    with pytest.raises(DecodeError, match="UTF-8"):
        accounts.VendorAccount.decode(data)
