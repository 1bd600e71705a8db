"""The golden vectors say what the code does, and what the formulas of docs/protocol.md say without the
code."""

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol import vectors, x402
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from machpay.protocol.encoding import parse_b64
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey, verify
from machpay.protocol.nonces import lifetime_is_allowed, parse_nonce
from machpay.protocol.offers import Offer
from machpay.protocol.proofs import BatchLeaf, batch_head, verify_inclusion
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.requests import request_hash, route_hash
from machpay.protocol.settlements import decode_item, parse_item, to_item, verify_item
from machpay.protocol.signed_requests import verify_request

DIRECTORY = Path(__file__).resolve().parents[2] / "contracts" / "vectors"


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DIRECTORY / name).read_text())
    return document


def network_of(document: dict[str, Any]) -> Network:
    fields = document["network"]
    return Network(
        program_id=Pubkey.from_string(fields["programId"]),
        mint=Pubkey.from_string(fields["mint"]),
        domain=Hash.from_string(fields["domain"]),
    )


def cases(name: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector.get("name", str(n))) for n, vector in enumerate(load(name)["vectors"])
    ]


@pytest.mark.parametrize("name", vectors.FILES)
def test_committed_files_are_what_the_code_writes(name):
    assert (DIRECTORY / name).read_text() == vectors.render(vectors.FILES[name])


def test_every_committed_file_is_written_by_the_code():
    assert {path.name for path in DIRECTORY.glob("*.json")} == set(vectors.FILES)


def test_check_names_files_that_differ(tmp_path, capsys):
    assert vectors.main(["--dir", str(tmp_path)]) == 0
    assert vectors.main(["--dir", str(tmp_path), "--check"]) == 0
    (tmp_path / "nonces.json").write_text("{}")
    (tmp_path / "intents.json").unlink()
    assert vectors.main(["--dir", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == "vectors differ from the code: intents.json, nonces.json\n"


@pytest.mark.parametrize("vector", cases("channels.json"))
def test_channel_addresses_agree_with_the_chain_package(vector):
    network = network_of(load("channels.json"))
    channel = network.channel(Pubkey.from_string(vector["agent"]), Pubkey.from_string(vector["gateway"]))
    assert (str(channel), bytes(channel).hex()) == (vector["channel"], vector["channelHex"])
    assert network.caip2 == load("channels.json")["network"]["caip2"]


@pytest.mark.parametrize("vector", cases("aggregates.json"))
def test_aggregated_vouchers_follow_the_formula_and_the_code(vector):
    network = network_of(load("aggregates.json"))
    agent = Pubkey.from_string(vector["agent"])
    pairs = [(Pubkey.from_string(t["channel"]), int(t["cumulative"])) for t in vector["totals"]]
    preimage = b"machpay:aggregate:v1" + bytes(network.domain) + bytes(network.mint) + bytes(agent)
    preimage += struct.pack("<H", len(pairs))
    preimage += b"".join(bytes(channel) + struct.pack("<Q", cumulative) for channel, cumulative in pairs)
    assert vector["messageHex"] == (b"MP\x01\x41" + hashlib.sha256(preimage).digest()).hex()
    assert len(vector["messageHex"]) == 2 * 36

    aggregate = Aggregate(network.domain, network.mint, agent, tuple(ChannelTotal(*pair) for pair in pairs))
    signature = aggregate.sign(SigningKey(bytes.fromhex(vector["agentSeedHex"])))
    assert aggregate.message.hex() == vector["messageHex"]
    assert signature.hex() == vector["signatureHex"]
    assert aggregate.is_signed_by_agent(signature)


@pytest.mark.parametrize("vector", cases("intents.json"))
def test_intent_bytes_follow_the_formulas(vector):
    bound = hashlib.sha256(
        f"{vector['method']}\n{vector['target']}\n".encode() + hashlib.sha256(b"").digest()
    ).digest()
    terms = (
        UUID(vector["nonce"]).bytes
        + struct.pack("<Qq", int(vector["amount"]), int(vector["deadline"]))
        + bytes.fromhex(vector["requestHashHex"])
    )
    context = hashlib.sha256(b"machpay:context:v1" + terms).digest()[:16]
    message = (
        b"MP\x01\x49"
        + bytes.fromhex(vector["channelHex"])
        + struct.pack("<Q", int(vector["cumulative"]))
        + context
    )
    assert bound.hex() == vector["requestHashHex"]
    assert context.hex() == vector["contextHex"]
    assert message.hex() == vector["messageHex"]
    assert len(message) == 60
    assert hashlib.sha256(b"machpay:intent:v1" + message + terms).hexdigest() == vector["digestHex"]


@pytest.mark.parametrize("vector", cases("intents.json"))
def test_intent_code_agrees_with_the_vectors(vector):
    key = SigningKey(bytes.fromhex(vector["agentSeedHex"]))
    intent = PaymentIntent(
        channel=Pubkey.from_string(vector["channel"]),
        cumulative=int(vector["cumulative"]),
        nonce=parse_nonce(vector["nonce"]),
        amount=int(vector["amount"]),
        deadline=int(vector["deadline"]),
        request_hash=request_hash(vector["method"], vector["target"]),
    )
    signature = intent.sign(key)
    assert intent.nonce.bytes.hex() == vector["nonceHex"]
    assert bytes(key.public).hex() == vector["agentHex"]
    assert intent.context.hex() == vector["contextHex"]
    assert intent.message.hex() == vector["messageHex"]
    assert intent.digest.hex() == vector["digestHex"]
    assert signature.hex() == vector["signatureHex"]
    assert signature == base64.b64decode(vector["signature"])
    assert intent.is_signed_by(key.public, signature)
    assert intent.voucher(signature).is_signed_by(key.public)


def test_the_vectors_hold_an_equivocation():
    by_name = {vector["name"]: vector for vector in load("intents.json")["vectors"]}
    first, second = by_name["next payment"], by_name["same nonce"]
    assert first["nonce"] == second["nonce"]
    assert first["agent"] == second["agent"]
    assert first["channel"] != second["channel"]


@pytest.mark.parametrize("vector", cases("proofs.json"))
def test_inclusion_paths_follow_the_formulas_and_the_code(vector):
    count, root = int(vector["leafCount"]), bytes.fromhex(vector["rootHex"])
    for path in vector["paths"]:
        index, charged, served = (int(path[name]) for name in ("index", "charged", "servedTotal"))
        digest, siblings = bytes.fromhex(path["digestHex"]), [bytes.fromhex(h) for h in path["siblingsHex"]]
        preimage = b"\x00" + struct.pack("<Q", index) + digest + struct.pack("<QQ", charged, served)
        assert hashlib.sha256(preimage).hexdigest() == path["leafHashHex"]
        leaf = BatchLeaf(digest, charged, served)
        assert verify_inclusion(leaf, index=index, leaf_count=count, siblings=siblings, root=root)


def test_batch_heads_form_a_chain():
    head = bytes(32)
    for vector in load("proofs.json")["vectors"][:-1]:
        sequence, count = int(vector["sequence"]), int(vector["leafCount"])
        root = bytes.fromhex(vector["rootHex"])
        preimage = head + struct.pack("<QQ", sequence, count) + root
        head, previous = hashlib.sha256(preimage).digest(), head
        assert head.hex() == vector["headHex"]
        assert batch_head(previous, sequence, count, root) == head


@pytest.mark.parametrize("vector", cases("request_hashes.json"))
def test_request_and_route_hashes(vector):
    body = bytes.fromhex(vector["body"]["hex"]) * vector["body"]["repeat"]
    method, target = vector["method"], vector["target"]
    expected = vector["requestHashHex"]
    head = f"{method.upper()}\n{target}\n".encode()
    assert hashlib.sha256(head + hashlib.sha256(body).digest()).hexdigest() == expected
    assert request_hash(method, target, body).hex() == expected
    assert request_hash(method, target.encode(), body_sha256=hashlib.sha256(body).digest()).hex() == expected
    path = target.split("?")[0]
    assert hashlib.sha256(f"{method.upper()}\n{path}\n".encode()).hexdigest() == vector["routeHashHex"]
    assert route_hash(method, path).hex() == vector["routeHashHex"]


@pytest.mark.parametrize("vector", cases("receipts.json"))
def test_receipt_bytes(vector):
    document = load("receipts.json")
    message = (
        b"MP\x01R"
        + bytes.fromhex(vector["digestHex"])
        + struct.pack(
            "<HQQq",
            vector["httpStatus"],
            int(vector["charged"]),
            int(vector["servedTotal"]),
            int(vector["time"]),
        )
    )
    signed = SignedReceipt.from_json(vector["json"])
    assert len(message) == 62
    assert message.hex() == vector["messageHex"]
    assert signed.receipt.message == message
    assert signed.signature.hex() == vector["signatureHex"]
    assert signed.is_signed_by(Pubkey.from_string(document["gateway"]))
    assert signed.receipt.sign(SigningKey(bytes.fromhex(document["gatewaySeedHex"]))) == signed
    assert signed.to_json() == vector["json"]


@pytest.mark.parametrize("vector", cases("signatures.json"))
def test_strict_verification(vector):
    key = Pubkey(bytes.fromhex(vector["publicKeyHex"]))
    outcome = verify(key, bytes.fromhex(vector["messageHex"]), bytes.fromhex(vector["signatureHex"]))
    assert outcome is vector["valid"]


def test_exactly_one_signature_vector_is_valid():
    assert [v["name"] for v in load("signatures.json")["vectors"] if v["valid"]] == ["good"]


@pytest.mark.parametrize("vector", cases("nonces.json"))
def test_nonce_lifetimes(vector):
    document = load("nonces.json")
    nonce = parse_nonce(vector["nonce"])
    remaining_ms = int(vector["deadline"]) * 1000 - int(vector["unixMs"])
    limit_ms = (document["maxLifetimeSeconds"] + document["skewSeconds"]) * 1000
    assert nonce.int >> 80 == int(vector["unixMs"])
    assert vector["allowed"] is (0 <= remaining_ms <= limit_ms)
    assert lifetime_is_allowed(nonce, int(vector["deadline"])) is vector["allowed"]


@pytest.mark.parametrize("vector", cases("signed_requests.json"))
def test_signed_requests_verify_and_bind_everything(vector):
    body = bytes.fromhex(vector["body"]["hex"]) * vector["body"]["repeat"]
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    signer = verify_request(
        vector["method"], vector["target"], body, headers, now=int(headers["x-machpay-timestamp"])
    )
    text = "\n".join(
        (
            "machpay:request:v1",
            vector["method"],
            vector["target"],
            hashlib.sha256(body).hexdigest(),
            headers["x-machpay-timestamp"],
            headers["x-machpay-nonce"],
        )
    )
    key = SigningKey(bytes.fromhex(vector["seedHex"]))
    assert signer.key == key.public
    assert base64.b64decode(headers["x-machpay-signature"]) == key.sign(text.encode())


@pytest.mark.parametrize("vector", cases("settlement_items.json"))
def test_settlement_items_parse_verify_and_come_back_the_same(vector):
    network = network_of(load("settlement_items.json"))
    item = decode_item(json.dumps(vector["item"]).encode())
    gateway = Pubkey.from_string(item.gateway)
    payment = parse_item(
        item, gateway=gateway, channel=network.channel(Pubkey.from_string(item.agent), gateway)
    )
    assert verify_item(payment)
    assert payment.intent.digest.hex() == vector["digestHex"]
    assert to_item(payment) == item


@pytest.mark.parametrize("vector", cases("x402.json"))
def test_headers_hold_the_json_beside_them(vector):
    assert json.loads(base64.b64decode(vector["value"])) == vector["json"]
    decode = {
        x402.REQUIRED_HEADER: x402.decode_required,
        x402.SIGNATURE_HEADER: x402.decode_payload,
        x402.RESPONSE_HEADER: x402.decode_response,
    }[vector["header"]]
    value = decode(vector["value"])
    assert x402.encode_header(value) == vector["value"]
    assert len(vector["value"]) < x402.MAX_HEADER_BYTES


def test_the_vectors_tell_one_story():
    network = network_of(load("x402.json"))
    by_name = {vector["name"]: vector["value"] for vector in load("x402.json")["vectors"]}
    offer = Offer.from_requirements(x402.decode_required(by_name["unpaid"]).accepts[0])
    terms = x402.parse_terms(x402.decode_payload(by_name["payment"]).payload)
    channel = network.channel(terms.agent, terms.gateway)
    intent = terms.intent(channel)
    assert (offer.program_id, offer.mint, offer.domain, offer.network) == (
        network.program_id,
        network.mint,
        network.domain,
        network.caip2,
    )
    assert offer.gateway == terms.gateway
    assert offer.request_hash == terms.request_hash
    assert intent.is_signed_by(terms.agent, terms.signature)

    served = x402.decode_response(by_name["served"])
    receipt = SignedReceipt.from_json(served.extra["receipt"])
    assert receipt.is_signed_by(terms.gateway)
    assert receipt.receipt.digest == intent.digest == bytes.fromhex(served.extra["commitmentId"])

    corrected = x402.decode_required(by_name["cumulative too low"]).accepts[0].extra
    correction = x402.parse_correction(corrected)
    assert correction is not None
    assert correction.committed_total == 3_000
    assert correction.voucher == intent.voucher(parse_b64(corrected["voucher"]["signature"], "signature"))
    assert correction.voucher.is_signed_by(terms.agent)
    assert x402.parse_correction(x402.decode_response(by_name["refused"]).extra) == correction
