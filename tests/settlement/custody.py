"""A custodial wallet on the session's chain, with users that have money in it. Every test has a wallet of its own."""

import itertools
import time
from dataclasses import dataclass, field

import msgspec
from django.contrib.auth import get_user_model
from django.utils import timezone
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from apps.ledger.selectors import Funds
from apps.payments.selectors.custody import custodial_funds
from apps.payments.services.custody import deposit_reference
from apps.settlement.chain import connect
from apps.settlement.services.custody import CustodyTerm, compare_custody, ensure_wallet, sync_deposits
from apps.settlement.services.payouts import follow_payouts, pay_payouts
from apps.vendors.models import Payout, PayoutDestination
from apps.vendors.services.payouts import request_payout
from machpay.chain import tokens
from machpay.protocol.keys import SigningKey
from tests.support.chain import SLOT_MS, LocalChain

SOL = 1_000_000_000
_names = itertools.count()


@dataclass
class Custody:
    """The wallet, what beat's tasks do with it one step at a time, and what the books say."""

    chain: LocalChain
    key: SigningKey
    wallet: Pubkey = field(init=False)

    def __post_init__(self) -> None:
        self.chain.call(lambda client: client.airdrop(self.key.public, 10 * SOL))
        with connect() as session:
            self.wallet = ensure_wallet(session)

    @property
    def mint(self) -> str:
        return str(self.chain.network.mint)

    def user(self, *, has: int = 0) -> int:
        """A new user, with money that came in over the chain."""
        user_id = get_user_model().objects.create_user(username=f"user-{next(_names)}").pk
        if has:
            self.send_in(has, deposit_reference(user_id))
            self.sync()
            assert self.funds(user_id) == (has, 0)
        return user_id

    def usable_wallet(self, user_id: int) -> Pubkey:
        """A wallet without a token account, confirmed by its owner long ago."""
        wallet = SigningKey.generate().public
        PayoutDestination.objects.create(
            user_id=user_id,
            wallet=str(wallet),
            challenge="x",
            confirmed_at=timezone.now(),
            usable_from=timezone.now(),
        )
        return wallet

    def request(self, user_id: int, wallet: Pubkey, amount: int, reference: str = "payout_001") -> Payout:
        return request_payout(
            user_id=user_id, wallet=str(wallet), amount_atomic=amount, reference=reference, mint=self.mint
        )

    # ---- the chain

    def send_in(self, amount: int, *references: str, final: bool = True) -> str:
        """Somebody sends `amount` to the wallet, naming `references`; returns the signature."""
        payer = self.chain.keys.get("admin").keypair()
        step = tokens.transfer(
            source=tokens.associated_token_address(payer.pubkey(), self.chain.network.mint),
            destination=self.wallet,
            authority=payer.pubkey(),
            amount=amount,
        )
        named = [AccountMeta(Pubkey.from_string(each), False, False) for each in references]
        step = Instruction(step.program_id, bytes(step.data), [*step.accounts, *named])
        signature = self.chain.call(
            lambda client: client.send_and_confirm(
                [*self._fund(payer.pubkey(), amount), step], payer, self._mint_keys()
            )
        )
        if final:
            self.chain.wait_until_final()
        return signature

    def _fund(self, owner: Pubkey, amount: int) -> list[Instruction]:
        mint = self.chain.network.mint
        return [
            tokens.create_ata_idempotent(payer=owner, owner=owner, mint=mint),
            tokens.mint_to(
                mint=mint,
                destination=tokens.associated_token_address(owner, mint),
                authority=self.chain.keys.get("mint-authority").public,
                amount=amount,
            ),
        ]

    def _mint_keys(self):
        return [self.chain.keys.get("mint-authority").keypair()]

    def paid_to(self, wallet: Pubkey) -> int:
        """What the wallet's token account has, final."""
        account = tokens.associated_token_address(wallet, self.chain.network.mint)
        return self.chain.call(lambda client: client.token_balance(account, "finalized"))

    # ---- steps

    def sync(self) -> int:
        with connect() as session:
            return len(sync_deposits(session))

    def pay(self) -> list[int]:
        with connect() as session:
            return pay_payouts(session)

    def follow(self):
        with connect() as session:
            return follow_payouts(session)

    def rest(self) -> None:
        """Pay and follow until no payout is under way."""
        deadline = time.monotonic() + 120
        while Payout.objects.filter(status__in=["PENDING", "SENT"]).exists():
            assert time.monotonic() < deadline, msgspec.json.encode(
                list(Payout.objects.values("id", "status", "error"))
            )
            self.pay()
            self.follow()
            time.sleep(SLOT_MS / 1000)

    # ---- what the books say

    def funds(self, user_id: int) -> Funds:
        return custodial_funds(user_id, self.mint)

    def compare(self) -> CustodyTerm:
        with connect() as session:
            term = compare_custody(session)
        assert term is not None
        return term


def open_custody(chain: LocalChain, settings) -> Custody:
    """A fresh wallet, named in the settings."""
    name = f"custody-{next(_names)}"
    key = chain.keys.get(name)
    settings.CUSTODY_KEYPAIR = str(chain.keys.path(name))
    settings.PAYOUT_MINIMUM_ATOMIC = 1
    return Custody(chain, key)
