"""The public Solana clusters: by which genesis hash they are known, where USDC is, and an RPC server for a first look.

Nothing about MachPay itself is here: which program serves a cluster is a deployment's to say.
"""

from dataclasses import dataclass
from typing import Final

from solders.hash import Hash
from solders.pubkey import Pubkey


@dataclass(frozen=True, slots=True)
class Cluster:
    """One public cluster. `usdc` is Circle's classic SPL mint there, None where there is none."""

    name: str
    genesis: Hash
    rpc_url: str
    usdc: Pubkey | None


CLUSTERS: Final = {
    cluster.name: cluster
    for cluster in (
        Cluster(
            "mainnet",
            Hash.from_string("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"),
            "https://api.mainnet-beta.solana.com",
            Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"),
        ),
        Cluster(
            "devnet",
            Hash.from_string("EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"),
            "https://api.devnet.solana.com",
            Pubkey.from_string("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"),
        ),
        Cluster(
            "testnet",
            Hash.from_string("4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"),
            "https://api.testnet.solana.com",
            None,
        ),
    )
}


def cluster_of(genesis: Hash) -> Cluster | None:
    """The public cluster with this genesis hash."""
    return next((cluster for cluster in CLUSTERS.values() if cluster.genesis == genesis), None)
