"""The faucet: one account with a great deal of SOL, whose airdrops are ordinary transfers."""

import secrets

from solders.account import Account
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from contracts.localnet.bank import Bank
from contracts.localnet.storage import Storage

FAUCET_LAMPORTS = 500_000_000 * 1_000_000_000
MEMO_PROGRAM = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


class Faucet:
    """The faucet of one chain; a fresh chain gets one with FAUCET_LAMPORTS."""

    def __init__(self, storage: Storage, bank: Bank) -> None:
        seed = storage.fact("faucet")
        if seed is not None:
            self._keypair = Keypair.from_base58_string(seed)
            return
        self._keypair = Keypair()
        storage.set_fact("faucet", str(self._keypair))
        account = Account(FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM)
        bank.put(self._keypair.pubkey(), account)
        storage.set_account(self._keypair.pubkey(), account)

    def transfer(self, address: Pubkey, lamports: int, blockhash: Hash) -> VersionedTransaction:
        """Return a signed transfer; no two are the same transaction, however equal."""
        source = self._keypair.pubkey()
        pay = transfer(TransferParams(from_pubkey=source, to_pubkey=address, lamports=lamports))
        # The memo makes each one different: two equal airdrops in one slot would be duplicates.
        unique = Instruction(MEMO_PROGRAM, secrets.token_hex(8).encode(), [])
        message = MessageV0.try_compile(source, [pay, unique], [], blockhash)
        return VersionedTransaction(message, [self._keypair])
