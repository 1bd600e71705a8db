"""What a gateway offers in a 402, typed: price, token, deployment and the request it is bound to.

An offer is one entry of `accepts` with the scheme `machpay-bond`. Gateways build it, agents compare every
field with the network they are configured for before they sign anything.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.protocol.encoding import decode_json, parse_hex, parse_pubkey, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.requests import Binding
from machpay.protocol.x402 import INTENT_VERSION, SCHEME, Requirements

LOOKUP_PREFIX = "/.well-known/machpay/payments/"
"""`GET` this and a digest in hex: what became of a payment."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay with a bond. `amount` is the price in atomic units of `mint`; `network` is the CAIP-2
    name; `domain` the genesis hash; `request_hash` what the payment must be bound to, computed as `binding`
    says."""

    network: str
    program_id: Pubkey
    mint: Pubkey
    domain: Hash
    vendor: Pubkey
    gateway: Pubkey
    amount: int
    max_timeout_s: int
    request_hash: bytes
    binding: Binding

    def to_requirements(self) -> Requirements:
        """The entry of `accepts`."""
        extra: dict[str, Any] = {
            "programId": str(self.program_id),
            "domain": str(self.domain),
            "gateway": str(self.gateway),
            "intentVersion": INTENT_VERSION,
            "requestHash": self.request_hash.hex(),
            "binding": self.binding,
        }
        return Requirements(
            scheme=SCHEME,
            network=self.network,
            amount=str(self.amount),
            asset=str(self.mint),
            pay_to=str(self.vendor),
            max_timeout_seconds=self.max_timeout_s,
            extra=extra,
        )

    @classmethod
    def from_requirements(cls, requirements: Requirements) -> "Offer":
        """Type every field. Raises `MalformedError` naming the first that is wrong."""
        if requirements.scheme != SCHEME:
            raise MalformedError(f"the scheme is {requirements.scheme}, not {SCHEME}")
        extra = requirements.extra
        version = extra.get("intentVersion")
        if type(version) is not int or version != INTENT_VERSION:
            raise MalformedError(f"extra.intentVersion must be {INTENT_VERSION}")
        binding = extra.get("binding")
        if binding not in ("request", "route"):
            raise MalformedError('extra.binding must be "request" or "route"')
        if requirements.max_timeout_seconds <= 0:
            raise MalformedError("maxTimeoutSeconds must be positive")
        return cls(
            network=requirements.network,
            program_id=parse_pubkey(extra.get("programId"), "extra.programId"),
            mint=parse_pubkey(requirements.asset, "asset"),
            # A genesis hash has the text form of a public key.
            domain=Hash(bytes(parse_pubkey(extra.get("domain"), "extra.domain"))),
            vendor=parse_pubkey(requirements.pay_to, "payTo"),
            gateway=parse_pubkey(extra.get("gateway"), "extra.gateway"),
            amount=parse_u64(requirements.amount, "amount"),
            max_timeout_s=requirements.max_timeout_seconds,
            request_hash=parse_hex(extra.get("requestHash"), "extra.requestHash", 32),
            binding=binding,
        )


class PaymentLookup(msgspec.Struct):
    """The answer of `GET /.well-known/machpay/payments/{digest}`.

    A payment that is `in_flight` is still `unknown`: ask again. An ended one is served or void and has its
    `receipt`. Otherwise `unknown` means that this gateway holds nothing under the digest, which says that nothing was
    charged only for a payment that was made less than `remembers_s` seconds ago: older ones may have been forgotten.
    """

    digest: str
    status: Literal["served", "void", "unknown"]
    in_flight: bool = False
    receipt: dict[str, Any] | None = None
    remembers_s: float = 0

    def settles(self, age_s: float) -> bool:
        """True if this is the gateway's last word on a payment that was made `age_s` seconds ago."""
        return not self.in_flight and (self.status != "unknown" or age_s < self.remembers_s)


_lookup_decoder = msgspec.json.Decoder(PaymentLookup)


def decode_lookup(raw: bytes) -> tuple[PaymentLookup, SignedReceipt | None]:
    """Parse a look-up's answer. Says nothing about the receipt's signature."""
    lookup: PaymentLookup = decode_json(_lookup_decoder, raw, "payment look-up")
    return lookup, None if lookup.receipt is None else SignedReceipt.from_json(lookup.receipt)
