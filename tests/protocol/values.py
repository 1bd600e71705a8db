"""Fixed keys and payments that the protocol tests share, and strategies for random ones."""

from uuid import UUID

from hypothesis import strategies as st
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.protocol.encoding import I64_MAX, U64_MAX
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.offers import Offer

AGENT = SigningKey(b"\x01" * 32)
GATEWAY = SigningKey(b"\x02" * 32)
VENDOR = SigningKey(b"\x03" * 32)
CHANNEL = Pubkey(b"\x04" * 32)
MINT = Pubkey(b"\x05" * 32)
PROGRAM_ID = Pubkey(b"\x06" * 32)
DOMAIN = Hash(b"\x07" * 32)
NOW = 1_795_255_200
NONCE = UUID("01a1fd8c-6900-7000-8000-000000000001")

u64 = st.integers(0, U64_MAX)
bytes32 = st.binary(min_size=32, max_size=32)
pubkeys = bytes32.map(Pubkey)
nonces = st.builds(
    lambda ms, tail: UUID(
        int=ms << 80 | 0x7 << 76 | (tail >> 62 & 0xFFF) << 64 | 0x2 << 62 | tail & 2**62 - 1
    ),
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**74 - 1),
)
intents = st.builds(PaymentIntent, pubkeys, u64, nonces, u64, st.integers(0, I64_MAX), bytes32)


def an_intent(*, cumulative: int = 5_000, amount: int = 1_000, nonce: UUID = NONCE) -> PaymentIntent:
    return PaymentIntent(CHANNEL, cumulative, nonce, amount, NOW + 60, b"\x08" * 32)


def an_offer(**changes: object) -> Offer:
    fields: dict[str, object] = {
        "network": f"solana:{str(DOMAIN)[:32]}",
        "program_id": PROGRAM_ID,
        "mint": MINT,
        "domain": DOMAIN,
        "vendor": VENDOR.public,
        "gateway": GATEWAY.public,
        "amount": 1_000,
        "max_timeout_s": 60,
        "request_hash": b"\x08" * 32,
        "binding": "request",
        **changes,
    }
    return Offer(**fields)  # type: ignore[arg-type]
