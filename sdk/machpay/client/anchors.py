"""Is a payment in the batch that the chain anchors? Needs nobody's word but the chain's.

The proof comes from the network's management API or from a file; root and leaf count come from the Batch account.
"""

import time
from pathlib import Path
from typing import Final

from machpay.chain.client import ChainClient
from machpay.client.errors import NotAnchoredError, ProofUnavailableError
from machpay.client.transport import Transport
from machpay.protocol.errors import MalformedError
from machpay.protocol.proofs import InclusionProof
from machpay.protocol.receipts import SignedReceipt

PROOF_TARGET: Final = "/v1/payments/{digest}/proof"
ARRIVES_WITHIN_S: Final = 600.0
"""Gateways hand payments on within moments, and in order after an outage: a young one is not lost."""


async def fetch_proof(
    transport: Transport, api_url: str, digest: bytes, receipt: SignedReceipt | None
) -> bytes:
    """The JSON of the proof for a payment. Raises `NotAnchoredError` while it is in no batch, or when its `receipt`
    says that it may not have arrived yet, `ProofUnavailableError`, `GatewayUnreachableError`."""
    url = api_url.rstrip("/") + PROOF_TARGET.format(digest=digest.hex())
    answer = await transport.ask(transport.build("GET", url))
    is_fresh = receipt is not None and time.time() - receipt.receipt.time < ARRIVES_WITHIN_S
    if answer.status_code == 409 or (answer.status_code == 404 and is_fresh):
        raise NotAnchoredError(digest)
    if answer.status_code != 200:
        raise ProofUnavailableError(digest, f"{url} answers {answer.status_code}: {answer.text[:200]}")
    return answer.content


async def verify_inclusion(
    chain: ChainClient, proof: InclusionProof, digest: bytes, receipt: SignedReceipt | None
) -> bool:
    """Whether `proof` shows that the payment is in the finalised batch it names, with what `receipt` says was charged.
    Raises `ChainError`."""
    leaf = proof.leaf
    if leaf.digest != digest:
        return False
    if receipt is not None:
        signed = receipt.receipt
        if (signed.digest, signed.charged, signed.served_total) != (digest, leaf.charged, leaf.served_total):
            return False
    batch = await chain.batch(proof.batch.seq, "finalized")
    return batch is not None and proof.holds(root=batch.root, leaf_count=batch.leaf_count)


def parse_proof(proof: InclusionProof | bytes | str | Path, digest: bytes) -> InclusionProof:
    """A proof from its JSON, or from the file that holds it. Raises `ProofUnavailableError`."""
    if isinstance(proof, InclusionProof):
        return proof
    try:
        raw = proof.read_bytes() if isinstance(proof, Path) else proof
        return InclusionProof.parse(raw.encode() if isinstance(raw, str) else raw)
    except (OSError, MalformedError) as error:
        raise ProofUnavailableError(digest, str(error)) from error
