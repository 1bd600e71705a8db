"""Which chain, program and token a deployment means, and the addresses that follow from them.

`Network` is the value that everything signed is bound to: the address of a channel is derived from the program,
the cluster's genesis hash, the mint, the agent and the gateway, so sixty signed bytes that name a channel name all
five. This module derives addresses only; it never talks to a cluster.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from solders.hash import Hash
from solders.pubkey import Pubkey

CAIP2_REFERENCE_LENGTH: Final = 32
_CACHED_ADDRESSES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Network:
    """One deployment: program, token and cluster. Hashable; two equal networks accept the same signatures.

    `domain` is the cluster's genesis hash.
    """

    program_id: Pubkey
    mint: Pubkey
    domain: Hash

    @property
    def caip2(self) -> str:
        """The CAIP-2 name of the cluster: `solana:` and the first 32 characters of the base58 genesis hash."""
        return f"solana:{str(self.domain)[:CAIP2_REFERENCE_LENGTH]}"

    def bond(self) -> Pubkey:
        """GlobalBond, the configuration of this mint, and the authority over the vault."""
        return _derive(self.program_id, b"bond", bytes(self.mint))

    def vault(self) -> Pubkey:
        """The token account that holds every bond of this mint."""
        return _derive(self.program_id, b"vault", bytes(self.mint))

    def event_authority(self) -> Pubkey:
        """The address that signs the program's events to itself."""
        return _derive(self.program_id, b"__event_authority")

    def agent_account(self, agent: Pubkey) -> Pubkey:
        """The AgentAccount that holds `agent`'s bond."""
        return _derive(self.program_id, b"agent", bytes(self.mint), bytes(agent))

    def vendor_account(self, authority: Pubkey) -> Pubkey:
        """The VendorAccount of the vendor whose key is `authority`."""
        return _derive(self.program_id, b"vendor", bytes(authority))

    def gateway_account(self, gateway: Pubkey) -> Pubkey:
        """The GatewayAccount that says which vendor `gateway` serves."""
        return _derive(self.program_id, b"gateway", bytes(gateway))

    def channel(self, agent: Pubkey, gateway: Pubkey) -> Pubkey:
        """The Channel between `agent` and `gateway`; it need not exist yet to be signed for."""
        return _derive(
            self.program_id, b"channel", bytes(self.domain), bytes(self.mint), bytes(agent), bytes(gateway)
        )

    def batch(self, sequence: int) -> Pubkey:
        """The Batch account with this sequence number (u64)."""
        return _derive(self.program_id, b"batch", bytes(self.mint), sequence.to_bytes(8, "little"))


@lru_cache(maxsize=_CACHED_ADDRESSES)
def _derive(program_id: Pubkey, *seeds: bytes) -> Pubkey:
    """The program address of `seeds` with the canonical bump. Cached: a derivation costs about 20 microseconds
    per bump tried and a gateway asks for the same channel with every request."""
    address, _bump = Pubkey.find_program_address(seeds, program_id)
    return address
