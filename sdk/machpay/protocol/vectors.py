"""Writes the golden vectors in `contracts/vectors/`: worked examples of every byte that is signed or hashed.

    python -m machpay.protocol.vectors [--check] [--dir contracts/vectors]

The files are the contract between the Rust, Python and TypeScript sides. Everything in them follows from the
fixed inputs below, so a second run writes the same bytes; what `--check` reports is a change of the protocol.
Every key is a seed of one repeated byte: none may ever hold money.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.protocol import x402
from machpay.protocol.aggregates import AGGREGATE_CHANNELS_MAX, Aggregate, ChannelTotal
from machpay.protocol.encoding import I64_MAX, U64_MAX, to_b64
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.merkle import inclusion_path, merkle_root
from machpay.protocol.nonces import CLOCK_SKEW_S, MAX_LIFETIME_S, lifetime_is_allowed, nonce_unix_ms
from machpay.protocol.offers import Offer
from machpay.protocol.proofs import BatchLeaf, batch_head
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.requests import request_hash, route_hash
from machpay.protocol.settlements import ResolvedPayment, to_item
from machpay.protocol.signed_requests import sign_request

Json = dict[str, Any]

DEFAULT_DIR: Final = Path("contracts/vectors")

AGENT_SEED: Final = bytes([0xA1]) * 32
SECOND_AGENT_SEED: Final = bytes([0xA2]) * 32
GATEWAY_SEED: Final = bytes([0xB1]) * 32
SECOND_GATEWAY_SEED: Final = bytes([0xB2]) * 32
VENDOR_SEED: Final = bytes([0xC1]) * 32
PROGRAM_ID: Final = Pubkey(bytes([0xD1]) * 32)
MINT: Final = Pubkey(bytes([0xE1]) * 32)
DOMAIN: Final = Hash(bytes([0xF1]) * 32)
NONCE_MS: Final = 1_795_255_200_000
DEADLINE: Final = NONCE_MS // 1000 + 60

GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER_POINTS: Final = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
"""Points whose order divides eight: as keys they let anyone make signatures that verify laxly."""


def _key(seed: bytes) -> SigningKey:
    return SigningKey(seed)


def _nonce(unix_ms: int, tail: int) -> UUID:
    """A UUIDv7 with chosen random bits."""
    return UUID(int=unix_ms << 80 | 0x7 << 76 | 0x2 << 62 | tail)


def _channel(agent: Pubkey, gateway: Pubkey) -> Pubkey:
    """The channel's address from its seeds, spelled out here so that the vectors also check machpay.chain."""
    seeds = [b"channel", bytes(DOMAIN), bytes(MINT), bytes(agent), bytes(gateway)]
    return Pubkey.find_program_address(seeds, PROGRAM_ID)[0]


def _network() -> Json:
    return {
        "programId": str(PROGRAM_ID),
        "mint": str(MINT),
        "domain": str(DOMAIN),
        "caip2": f"solana:{str(DOMAIN)[:32]}",
    }


def _body(pattern: bytes, count: int = 1) -> Json:
    """A request body as a pattern and how often it is repeated, so that large ones stay readable."""
    return {"hex": pattern.hex(), "repeat": count}


def channels() -> Json:
    """Addresses of channels: what a signature over a channel binds."""
    vectors = []
    for agent_seed, gateway_seed in (
        (AGENT_SEED, GATEWAY_SEED),
        (AGENT_SEED, SECOND_GATEWAY_SEED),
        (SECOND_AGENT_SEED, GATEWAY_SEED),
    ):
        agent, gateway = _key(agent_seed).public, _key(gateway_seed).public
        channel = _channel(agent, gateway)
        vectors.append(
            {
                "agent": str(agent),
                "gateway": str(gateway),
                "channel": str(channel),
                "channelHex": bytes(channel).hex(),
            }
        )
    return {
        "about": 'Program address of the seeds "channel", domain, mint, agent, gateway; canonical bump.',
        "network": _network(),
        "vectors": vectors,
    }


def intents() -> Json:
    """Intents: request hash -> context -> message -> signature and digest."""
    edge_target = b"/search?q=" + b"a" * 8_000
    cases: list[tuple[str, bytes, bytes, int, int, UUID, int, bytes]] = [
        ("ordinary", AGENT_SEED, GATEWAY_SEED, 1_000, 1_000, _nonce(NONCE_MS, 1), DEADLINE, b"/v1/embed"),
        ("next payment", AGENT_SEED, GATEWAY_SEED, 2_000, 1_000, _nonce(NONCE_MS, 2), DEADLINE, b"/v1/embed"),
        ("same nonce", AGENT_SEED, SECOND_GATEWAY_SEED, 5, 5, _nonce(NONCE_MS, 2), DEADLINE, b"/v1/embed"),
        ("another agent", SECOND_AGENT_SEED, GATEWAY_SEED, 7, 3, _nonce(NONCE_MS, 3), DEADLINE, b"/"),
        ("all zero", AGENT_SEED, GATEWAY_SEED, 0, 0, _nonce(0, 0), 0, b"/"),
        ("u64 max", AGENT_SEED, GATEWAY_SEED, U64_MAX, U64_MAX, _nonce(2**48 - 1, 2**62 - 1), I64_MAX, b"/"),
        ("above 2^53", AGENT_SEED, GATEWAY_SEED, 2**53 + 1, 2**53 + 1, _nonce(NONCE_MS, 4), DEADLINE, b"/"),
        ("above 2^63", AGENT_SEED, GATEWAY_SEED, 2**63 + 1, 2**32 + 1, _nonce(NONCE_MS, 5), DEADLINE, b"/"),
        ("long target", AGENT_SEED, GATEWAY_SEED, 9_999, 1, _nonce(NONCE_MS, 6), DEADLINE, edge_target),
    ]
    vectors = []
    for name, agent_seed, gateway_seed, cumulative, amount, nonce, deadline, target in cases:
        agent, gateway = _key(agent_seed), _key(gateway_seed)
        channel = _channel(agent.public, gateway.public)
        bound = request_hash("GET", target)
        intent = PaymentIntent(channel, cumulative, nonce, amount, deadline, bound)
        vectors.append(
            {
                "name": name,
                "agentSeedHex": agent_seed.hex(),
                "agent": agent.pubkey,
                "agentHex": bytes(agent.public).hex(),
                "gateway": gateway.pubkey,
                "channel": str(channel),
                "channelHex": bytes(channel).hex(),
                "cumulative": str(cumulative),
                "amount": str(amount),
                "nonce": str(nonce),
                "nonceHex": nonce.bytes.hex(),
                "deadline": str(deadline),
                "method": "GET",
                "target": target.decode(),
                "requestHashHex": bound.hex(),
                "contextHex": intent.context.hex(),
                "messageHex": intent.message.hex(),
                "signatureHex": intent.sign(agent).hex(),
                "signature": to_b64(intent.sign(agent)),
                "digestHex": intent.digest.hex(),
            }
        )
    return {
        "about": (
            "requestHash of a GET without a body; context, 60-byte message, Ed25519 signature over it and"
            " digest as in docs/protocol.md. 'next payment' and 'same nonce' share agent and nonce on two"
            " channels: together they are an equivocation."
        ),
        "network": _network(),
        "vectors": vectors,
    }


def aggregates() -> Json:
    """Aggregated vouchers: one signature over what an agent has authorised on many channels."""
    one, two = (
        _channel(_key(AGENT_SEED).public, _key(seed).public) for seed in (GATEWAY_SEED, SECOND_GATEWAY_SEED)
    )
    many = [
        ChannelTotal(Pubkey(bytes([n]) * 32), n * 2**53 + 1) for n in range(1, AGGREGATE_CHANNELS_MAX + 1)
    ]
    cases = [
        ("one channel", AGENT_SEED, [ChannelTotal(one, 1_000)]),
        (
            "two channels, given in the other order",
            AGENT_SEED,
            [ChannelTotal(one, 1_000), ChannelTotal(two, 5)],
        ),
        ("another agent", SECOND_AGENT_SEED, [ChannelTotal(one, 1_000)]),
        ("zero and u64 max", AGENT_SEED, [ChannelTotal(one, 0), ChannelTotal(two, U64_MAX)]),
        ("the most channels", AGENT_SEED, many),
    ]
    vectors = []
    for name, agent_seed, totals in cases:
        agent = _key(agent_seed)
        aggregate = Aggregate.of(DOMAIN, MINT, agent.public, totals)
        vectors.append(
            {
                "name": name,
                "agentSeedHex": agent_seed.hex(),
                "agent": agent.pubkey,
                "totals": [
                    {"channel": str(total.channel), "cumulative": str(total.cumulative)}
                    for total in aggregate.totals
                ],
                "messageHex": aggregate.message.hex(),
                "signatureHex": aggregate.sign(agent).hex(),
            }
        )
    return {
        "about": "36-byte message of an aggregated voucher and the agent's signature; totals ascend by channel.",
        "network": _network(),
        "vectors": vectors,
    }


def _batch_leaf(number: int) -> BatchLeaf:
    """Leaf `number` of every tree in the vectors."""
    return BatchLeaf(number.to_bytes(2, "big") * 16, number * 1_000, number * (number + 1) * 500)


def proofs() -> Json:
    """Merkle trees over payments, inclusion paths, and the hash chain over their roots."""
    vectors, head = [], bytes(32)
    for sequence, count in enumerate((1, 2, 3, 5, 8, 13, 1_025)):
        leaves = [_batch_leaf(number) for number in range(count)]
        hashes = [leaf.hash_at(index) for index, leaf in enumerate(leaves)]
        root = merkle_root(hashes)
        head = batch_head(head, sequence, count, root)
        vectors.append(
            {
                "name": f"{count} leaves",
                "sequence": str(sequence),
                "leafCount": str(count),
                "rootHex": root.hex(),
                "headHex": head.hex(),
                "paths": [
                    {
                        "index": str(index),
                        "digestHex": leaves[index].digest.hex(),
                        "charged": str(leaves[index].charged),
                        "servedTotal": str(leaves[index].served_total),
                        "leafHashHex": hashes[index].hex(),
                        "siblingsHex": [sibling.hex() for sibling in inclusion_path(hashes, index)],
                    }
                    for index in sorted({0, count // 2, count - 1})
                ],
            }
        )
    extreme = BatchLeaf(b"\xff" * 32, U64_MAX, U64_MAX)
    vectors.append(
        {
            "name": "largest amounts",
            "sequence": str(U64_MAX),
            "leafCount": "1",
            "rootHex": extreme.hash_at(0).hex(),
            "headHex": batch_head(b"\xff" * 32, U64_MAX, 1, extreme.hash_at(0)).hex(),
            "paths": [
                {
                    "index": "0",
                    "digestHex": extreme.digest.hex(),
                    "charged": str(U64_MAX),
                    "servedTotal": str(U64_MAX),
                    "leafHashHex": extreme.hash_at(0).hex(),
                    "siblingsHex": [],
                }
            ],
        }
    )
    return {
        "about": (
            "leaf = sha256(00 index u64 LE, digest, charged u64 LE, served_total u64 LE); node = sha256(01 left"
            " right), split as RFC 6962 does. Leaf n of every tree has the digest n (u16 BE) repeated 16 times,"
            " charges 1000 n, served_total 500 n (n + 1). head = sha256(previous head, sequence u64 LE, leaf count"
            " u64 LE, root): the first from 32 zero bytes, each from the one before, the last from 32 bytes ff."
        ),
        "vectors": vectors,
    }


def request_hashes() -> Json:
    """Hashes that tie a payment to a request, and to a route."""
    cases: list[tuple[str, str, str, bytes, int]] = [
        ("no body", "GET", "/", b"", 0),
        ("query", "GET", "/weather?city=Z%C3%BCrich&unit=c", b"", 0),
        ("empty query mark is part of the target", "GET", "/weather?", b"", 0),
        ("method is upper case", "post", "/v1/embed", b'{"text":"hello"}', 1),
        ("body of one zero byte", "PUT", "/blob", b"\x00", 1),
        ("body at the binding limit", "POST", "/v1/embed", b"a", 256 * 1024),
        ("large body", "POST", "/v1/embed", b"0123456789abcdef", 65_536),
        ("long target", "GET", "/" + "p" * 8_000, b"", 0),
    ]
    vectors = [
        {
            "name": name,
            "method": method,
            "target": target,
            "body": _body(pattern, count),
            "requestHashHex": request_hash(method, target, pattern * count).hex(),
            "routeHashHex": route_hash(method, target.partition("?")[0]).hex(),
        }
        for name, method, target, pattern, count in cases
    ]
    return {
        "about": (
            "requestHash = sha256(METHOD LF target LF sha256(body)); routeHash = sha256(METHOD LF path LF),"
            " the path without its query. The body is `hex` repeated `repeat` times."
        ),
        "vectors": vectors,
    }


def _intent(cumulative: int = 3_000, tail: int = 7) -> tuple[SigningKey, SigningKey, PaymentIntent]:
    agent, gateway = _key(AGENT_SEED), _key(GATEWAY_SEED)
    channel = _channel(agent.public, gateway.public)
    bound = request_hash("POST", "/v1/embed", b'{"text":"hello"}')
    return agent, gateway, PaymentIntent(channel, cumulative, _nonce(NONCE_MS, tail), 1_000, DEADLINE, bound)


def _receipt(charged: int = 1_000) -> SignedReceipt:
    _agent, gateway, intent = _intent()
    status = 200 if charged else 503
    return Receipt(intent.digest, status, charged, 2_000 + charged, DEADLINE - 59).sign(gateway)


def receipts() -> Json:
    """Receipts: 62 bytes signed by the gateway."""
    _agent, gateway, intent = _intent()
    cases = [
        ("served", Receipt(intent.digest, 200, 1_000, 3_000, DEADLINE - 59)),
        ("void", Receipt(intent.digest, 503, 0, 2_000, DEADLINE - 59)),
        ("all zero", Receipt(bytes(32), 0, 0, 0, 0)),
        ("all maximal", Receipt(b"\xff" * 32, 0xFFFF, U64_MAX, U64_MAX, I64_MAX)),
    ]
    vectors = []
    for name, receipt in cases:
        signed = receipt.sign(gateway)
        vectors.append(
            {
                "name": name,
                "digestHex": receipt.digest.hex(),
                "httpStatus": receipt.http_status,
                "charged": str(receipt.charged),
                "servedTotal": str(receipt.served_total),
                "time": str(receipt.time),
                "messageHex": receipt.message.hex(),
                "signatureHex": signed.signature.hex(),
                "json": signed.to_json(),
            }
        )
    return {
        "about": "Receipt bytes and the gateway's signature; `json` is extra.receipt of a PAYMENT-RESPONSE.",
        "gatewaySeedHex": GATEWAY_SEED.hex(),
        "gateway": gateway.pubkey,
        "vectors": vectors,
    }


def signatures() -> Json:
    """Signatures that must and must not verify."""
    agent, _gateway, intent = _intent()
    message, good = intent.message, intent.sign(agent)
    scalar = int.from_bytes(good[32:], "little")
    cases = [
        ("good", bytes(agent.public), message, good),
        ("another message", bytes(agent.public), message[:-1] + bytes([message[-1] ^ 1]), good),
        ("another key", bytes(_key(SECOND_AGENT_SEED).public), message, good),
        ("flipped bit in R", bytes(agent.public), message, bytes([good[0] ^ 1]) + good[1:]),
        ("flipped bit in S", bytes(agent.public), message, good[:32] + bytes([good[32] ^ 1]) + good[33:]),
        (
            "S plus the group order",
            bytes(agent.public),
            message,
            good[:32] + (scalar + GROUP_ORDER).to_bytes(32, "little"),
        ),
        ("63 bytes", bytes(agent.public), message, good[:63]),
        ("65 bytes", bytes(agent.public), message, good + b"\x00"),
        ("empty", bytes(agent.public), message, b""),
        ("all zero", bytes(agent.public), message, bytes(64)),
    ]
    cases += [
        (f"small-order key {point}", bytes.fromhex(point), message, bytes.fromhex(point) + bytes(32))
        for point in SMALL_ORDER_POINTS
    ]
    cases += [
        (f"small-order R {point}", bytes(agent.public), message, bytes.fromhex(point) + good[32:])
        for point in SMALL_ORDER_POINTS
    ]
    vectors = [
        {
            "name": name,
            "publicKeyHex": key.hex(),
            "messageHex": text.hex(),
            "signatureHex": signature.hex(),
            "valid": name == "good",
        }
        for name, key, text, signature in cases
    ]
    return {"about": "Strict Ed25519 verification; only the first is valid.", "vectors": vectors}


def nonces() -> Json:
    """Edges of the rule 0 <= deadline - nonce time <= maximum + skew."""
    limit_ms = (MAX_LIFETIME_S + CLOCK_SKEW_S) * 1000
    deadline_ms = DEADLINE * 1000
    cases = [
        ("at its deadline", deadline_ms),
        ("one millisecond past its deadline", deadline_ms + 1),
        ("longest life", deadline_ms - limit_ms),
        ("one millisecond longer than the longest", deadline_ms - limit_ms - 1),
        ("ordinary", deadline_ms - 60_000),
        ("from 1970", 0),
        ("last that a UUIDv7 can carry", 2**48 - 1),
    ]
    vectors = []
    for name, unix_ms in cases:
        nonce = _nonce(unix_ms, 0x1234)
        vectors.append(
            {
                "name": name,
                "nonce": str(nonce),
                "unixMs": str(nonce_unix_ms(nonce)),
                "deadline": str(DEADLINE),
                "allowed": lifetime_is_allowed(nonce, DEADLINE),
            }
        )
    return {
        "about": "Whether a nonce may live until its deadline, in milliseconds, from the item alone.",
        "maxLifetimeSeconds": MAX_LIFETIME_S,
        "skewSeconds": CLOCK_SKEW_S,
        "vectors": vectors,
    }


def signed_requests() -> Json:
    """Requests signed with a gateway's or agent's key."""
    cases = [
        ("empty body", GATEWAY_SEED, "GET", "/liability/abc?exclude_gateway=def", _body(b"", 0)),
        ("json body", GATEWAY_SEED, "POST", "/settlements", _body(b'{"batch":[]}')),
        ("large body", AGENT_SEED, "POST", "/v1/ingest", _body(b"x", 100_000)),
    ]
    vectors = []
    for number, (name, seed, method, target, body) in enumerate(cases):
        raw = bytes.fromhex(body["hex"]) * body["repeat"]
        timestamp, nonce = DEADLINE - 60, UUID(int=number, version=4)
        vectors.append(
            {
                "name": name,
                "seedHex": seed.hex(),
                "method": method,
                "target": target,
                "body": body,
                "headers": sign_request(_key(seed), method, target, raw, timestamp=timestamp, nonce=nonce),
            }
        )
    return {
        "about": (
            'Signature over "machpay:request:v1" LF METHOD LF target LF hex sha256(body) LF timestamp LF'
            " nonce. The body is `hex` repeated `repeat` times."
        ),
        "vectors": vectors,
    }


def settlement_items() -> Json:
    """Resolved payments as they travel to the relayer."""
    agent, gateway, intent = _intent()
    vectors = []
    for name, charged in (("charged", 1_000), ("charged less than the ceiling", 250), ("void", 0)):
        signed = _receipt(charged)
        payment = ResolvedPayment(
            agent=agent.public,
            gateway=gateway.public,
            vendor=_key(VENDOR_SEED).public,
            intent=intent,
            signature=intent.sign(agent),
            charged=charged,
            http_status=signed.receipt.http_status,
            served_total=signed.receipt.served_total,
            served_at=signed.receipt.time,
            receipt=signed,
            seq=42,
        )
        item = msgspec.json.decode(msgspec.json.encode(to_item(payment)))
        vectors.append({"name": name, "digestHex": intent.digest.hex(), "item": item})
    return {"about": "Items of POST /settlements.", "network": _network(), "vectors": vectors}


def x402_headers() -> Json:
    """The three headers, with their JSON beside them."""
    agent, gateway, intent = _intent()
    offer = Offer(
        network=_network()["caip2"],
        program_id=PROGRAM_ID,
        mint=MINT,
        domain=DOMAIN,
        vendor=_key(VENDOR_SEED).public,
        gateway=gateway.public,
        amount=1_000,
        max_timeout_s=60,
        request_hash=intent.request_hash,
        binding="request",
    )
    requirements = offer.to_requirements()
    resource = x402.Resource(url="http://127.0.0.1:8402/v1/embed", mime_type="application/json")
    correction = x402.correction_json(x402.Correction(3_000, intent.voucher(intent.sign(agent))))
    corrected = msgspec.structs.replace(requirements, extra={**requirements.extra, **correction})
    served, network = _receipt(), requirements.network
    outcome: Json = {"commitmentId": intent.digest.hex(), "servedTotal": "3000", "receipt": served.to_json()}
    cases: list[tuple[str, str, msgspec.Struct]] = [
        (
            "unpaid",
            x402.REQUIRED_HEADER,
            x402.PaymentRequired(x402.VERSION, "payment_required", resource, [requirements]),
        ),
        (
            "cumulative too low",
            x402.REQUIRED_HEADER,
            x402.PaymentRequired(x402.VERSION, "cumulative_too_low", resource, [corrected]),
        ),
        ("payment", x402.SIGNATURE_HEADER, x402.build_payload(requirements, agent, gateway.public, intent)),
        (
            "served",
            x402.RESPONSE_HEADER,
            x402.PaymentResponse(
                success=True, payer=agent.pubkey, network=network, amount="1000", extra=outcome
            ),
        ),
        (
            "refused",
            x402.RESPONSE_HEADER,
            x402.PaymentResponse(
                success=False,
                payer=agent.pubkey,
                network=network,
                amount="0",
                error_reason="cumulative_too_low",
                extra=correction,
            ),
        ),
    ]
    vectors = [
        {
            "name": name,
            "header": header,
            "value": x402.encode_header(value),
            "json": msgspec.json.decode(msgspec.json.encode(value)),
        }
        for name, header, value in cases
    ]
    return {
        "about": "x402 version 2 headers of the scheme machpay-bond: base64 of the JSON beside it.",
        "network": _network(),
        "vectors": vectors,
    }


FILES: Final[dict[str, Callable[[], Json]]] = {
    "aggregates.json": aggregates,
    "channels.json": channels,
    "intents.json": intents,
    "nonces.json": nonces,
    "proofs.json": proofs,
    "receipts.json": receipts,
    "request_hashes.json": request_hashes,
    "settlement_items.json": settlement_items,
    "signatures.json": signatures,
    "signed_requests.json": signed_requests,
    "x402.json": x402_headers,
}


def render(build: Callable[[], Json]) -> str:
    """The text of one file."""
    return json.dumps(build(), indent=2, ensure_ascii=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with `--check` compare them: exit status 1 and the names of those that differ."""
    parser = argparse.ArgumentParser(description="Write or check the golden vectors.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help=f"where they are ({DEFAULT_DIR})")
    options = parser.parse_args(arguments)
    stale = []
    for name, build in FILES.items():
        path, text = options.dir / name, render(build)
        if options.check:
            if not path.is_file() or path.read_text() != text:
                stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print(f"vectors differ from the code: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
