"""Keys: loading, saving and strict verification."""

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_scalar_reduce
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey, verify, verify_beside
from machpay.protocol.vectors import GROUP_ORDER, SMALL_ORDER_POINTS
from tests.protocol.values import AGENT

both_verifiers = pytest.mark.parametrize("verify", [verify, verify_beside], ids=["solders", "libsodium"])


@both_verifiers
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_signs_like_solana_and_verifies(verify, seed, message):
    key = SigningKey(seed)
    reference = Keypair.from_seed(seed)
    assert key.public == reference.pubkey()
    assert key.sign(message) == bytes(reference.sign_message(message))
    assert key.keypair() == reference
    assert verify(key.public, message, key.sign(message))


@both_verifiers
@given(st.binary(min_size=60, max_size=60), st.integers(0, 511))
def test_a_flipped_bit_of_the_signature_never_verifies(verify, message, bit):
    signature = bytearray(AGENT.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(AGENT.public, message, bytes(signature))


@both_verifiers
@given(st.binary(max_size=100))
def test_a_scalar_above_the_group_order_never_verifies(verify, message):
    signature = AGENT.sign(message)
    scalar = int.from_bytes(signature[32:], "little")
    assert crypto_core_ed25519_scalar_reduce(signature[32:] + bytes(32)) == signature[32:]
    raised = (scalar + GROUP_ORDER).to_bytes(32, "little")
    assert not verify(AGENT.public, message, signature[:32] + raised)


@both_verifiers
@pytest.mark.parametrize("point", SMALL_ORDER_POINTS)
@pytest.mark.parametrize("commitment", SMALL_ORDER_POINTS)
def test_small_order_keys_verify_nothing(verify, point, commitment):
    key = Pubkey(bytes.fromhex(point))
    for message in (b"", b"a", b"b", b"c", b"d"):
        assert not verify(key, message, bytes.fromhex(commitment) + bytes(32))


@both_verifiers
@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_a_signature_of_another_length_is_false_not_an_error(verify, size):
    assert verify(AGENT.public, b"m", bytes(size)) is False


def test_both_text_forms_load():
    pair = AGENT.keypair()
    assert SigningKey.from_text(json.dumps(list(bytes(pair)))).pubkey == AGENT.pubkey
    assert SigningKey.from_text(f"  {pair}\n").pubkey == AGENT.pubkey
    assert SigningKey.from_bytes(bytes(pair)).pubkey == AGENT.pubkey
    assert SigningKey.from_bytes(bytes(pair)[:32]).pubkey == AGENT.pubkey


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1,2,3]",
        "[1.5]",
        '["1"]',
        "[[1]]",
        "[null]",
        "[256]",
        "[-1]",
        "[1",
        "hello",
        "0" * 88,
        '{"a":1}',
    ],
)
def test_text_that_holds_no_key_is_malformed(text):
    with pytest.raises(MalformedError, match="secret key"):
        SigningKey.from_text(text)


def test_halves_that_do_not_belong_together_are_refused():
    with pytest.raises(MalformedError, match="does not belong"):
        SigningKey.from_bytes(bytes(32) + bytes(AGENT.public))


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_secrets_of_another_size_are_refused(size):
    with pytest.raises(MalformedError):
        SigningKey.from_bytes(bytes(size))


def test_a_saved_key_is_private_loads_and_is_never_overwritten(tmp_path):
    path = tmp_path / "keys" / "agent.json"
    AGENT.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load(path).pubkey == AGENT.pubkey
    assert Keypair.from_json(path.read_text()) == AGENT.keypair()
    with pytest.raises(FileExistsError):
        SigningKey.generate().save(path)
    assert SigningKey.load(path).pubkey == AGENT.pubkey


def test_the_secret_never_shows():
    assert repr(AGENT) == f"SigningKey({AGENT.pubkey})"


def test_generated_keys_differ():
    assert len({SigningKey.generate().pubkey for _ in range(50)}) == 50
