"""Whose chain a command is about to change, and with which keys: everything is named and checked before anything is
sent."""

import stat
from pathlib import Path
from typing import Final

from solders.hash import Hash
from solders.keypair import Keypair

from apps.settlement.errors import DeploymentRefused
from machpay.chain.client import ChainClient
from machpay.chain.clusters import CLUSTERS as PUBLIC_CLUSTERS
from machpay.chain.clusters import cluster_of
from machpay.chain.errors import RpcUnavailable
from machpay.protocol.errors import ProtocolError
from machpay.protocol.keys import SigningKey

CLUSTERS: Final = ("local", "devnet", "mainnet")
MAINNET_USDC: Final = PUBLIC_CLUSTERS["mainnet"].usdc
# A random seed of 32 bytes with fewer different values than this does not occur.
_DISTINCT_BYTES_MIN: Final = 12


def cluster_name(genesis_hash: str) -> str:
    """The public cluster with this genesis, else "local"."""
    cluster = cluster_of(Hash.from_string(genesis_hash))
    return cluster.name if cluster is not None else "local"


async def require_cluster(chain: ChainClient, named: str) -> str:
    """The genesis hash of the cluster, which must be the one that the operator named. Raises `DeploymentRefused`."""
    try:
        genesis = str(await chain.genesis_hash())
    except RpcUnavailable as error:
        raise DeploymentRefused(f"the RPC server does not answer: {error}") from error
    found = cluster_name(genesis)
    if found != named:
        raise DeploymentRefused(f"--cluster says {named}, but SOLANA_RPC_URL leads to {found} ({genesis})")
    return genesis


def load_key(source: str, *, cluster: str, role: str) -> Keypair:
    """A keypair from a file's path or, as wallets export it, from the text itself (for keys in the environment).

    On mainnet a file that others may read is refused, and a key that nobody drew at random. Raises
    `DeploymentRefused`.
    """
    if not source:
        raise DeploymentRefused(f"no key is given for {role}")
    is_file = not source.lstrip().startswith("[")
    try:
        key = SigningKey.load(source) if is_file else SigningKey.from_text(source)
    except (OSError, ProtocolError) as error:
        where = source if is_file else "the text given"
        raise DeploymentRefused(f"the key for {role} ({where}) cannot be used: {error}") from error
    if cluster == "mainnet":
        if is_file and stat.S_IMODE(Path(source).stat().st_mode) & 0o077:
            raise DeploymentRefused(f"the key file for {role} ({source}) can be read by others: chmod 600")
        if len(set(key.keypair().secret())) < _DISTINCT_BYTES_MIN:
            raise DeploymentRefused(f"the key for {role} is a placeholder")
    return key.keypair()


def sol(lamports: int) -> str:
    """Lamports as people read them."""
    return f"{lamports // 10**9}.{lamports % 10**9:09d} SOL"
