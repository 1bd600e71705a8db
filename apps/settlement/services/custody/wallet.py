"""The custodial wallet's token account: one of its own, apart from the program's vault."""

from solders.pubkey import Pubkey

from apps.settlement.chain import ChainSession, custody_keypair
from machpay.chain.tokens import associated_token_address, create_ata_idempotent


def custodial_wallet(chain: ChainSession) -> Pubkey:
    """The token account that users' money is in. Raises `SettlementPaused` without the custody key."""
    return associated_token_address(custody_keypair().pubkey(), chain.network.mint)


def ensure_wallet(chain: ChainSession) -> Pubkey:
    """Create the token account unless it is there; the custody key pays. Raises `SettlementPaused`, `ChainError`."""
    custody = custody_keypair()
    wallet = custodial_wallet(chain)
    if not chain.run(chain.client.exists(wallet)):
        step = create_ata_idempotent(payer=custody.pubkey(), owner=custody.pubkey(), mint=chain.network.mint)
        chain.run(chain.client.send_and_confirm([step], custody))
    return wallet
