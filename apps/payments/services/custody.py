"""Money that the network keeps for users: deposits credit it, users pay each other with it.

The chain is read elsewhere; what is recorded here is final there. Every movement commits with its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone
from solders.keypair import Keypair

from apps.core.money import InvalidAmount
from apps.ledger import chart
from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments.errors import AlreadyAttributed, PaymentToSelf, ReferenceUsed, UnknownUser
from apps.payments.models import CustodialDeposit, CustodialPayment, CustodyCursor, DepositReference

Status = CustodialDeposit.Status


@dataclass(frozen=True, slots=True)
class SeenDeposit:
    """A finalised transfer into the custodial wallet, as read from its transaction; `named` are the accounts that its
    instruction names beside the ones it moves."""

    signature: str
    instruction: str
    amount_atomic: int
    source: str
    named: tuple[str, ...]
    slot: int


def deposit_reference(user_id: int) -> str:
    """The reference by which transfers of this user are known; issued at first use, the same for ever."""
    row = DepositReference.objects.filter(user_id=user_id).first()
    if row is None:
        # A real public key, so that no wallet refuses it; the secret half is not kept.
        fresh = str(Keypair().pubkey())
        DepositReference.objects.bulk_create(
            [DepositReference(reference=fresh, user_id=user_id)], ignore_conflicts=True
        )
        row = DepositReference.objects.get(user_id=user_id)
    return row.reference


def custody_cursor() -> CustodyCursor:
    """How far the wallet's history was recorded."""
    return CustodyCursor.objects.first() or CustodyCursor()


def record_deposits(
    deposits: Sequence[SeenDeposit], *, mint: str, signature: str, slot: int
) -> list[CustodialDeposit]:
    """Store deposits and credit whom they name; returns those that are new. The history up to `signature` in `slot` is
    recorded then. Deposits that name no reference, or two, wait for an operator. Safe to repeat, and by several workers
    at once: a transfer is stored once, and the cursor never goes back."""
    with transaction.atomic():
        CustodyCursor.objects.bulk_create([CustodyCursor()], ignore_conflicts=True)
        cursor = CustodyCursor.objects.select_for_update().get()
        known = set(
            CustodialDeposit.objects.filter(signature__in=[each.signature for each in deposits]).values_list(
                "signature", "instruction"
            )
        )
        fresh = [each for each in deposits if (each.signature, each.instruction) not in known]
        named = {address for each in fresh for address in each.named}
        users = dict(DepositReference.objects.filter(reference__in=named).values_list("reference", "user_id"))
        rows = []
        for each in fresh:
            found = {users[address] for address in each.named if address in users}
            user_id = found.pop() if len(found) == 1 else None
            rows.append(
                CustodialDeposit(
                    signature=each.signature,
                    instruction=each.instruction,
                    amount_atomic=each.amount_atomic,
                    source=each.source,
                    slot=each.slot,
                    status=Status.UNCLAIMED if user_id is None else Status.CREDITED,
                    user_id=user_id,
                )
            )
        CustodialDeposit.objects.bulk_create(rows)
        post([_deposit_transfer(row, mint) for row in rows])
        if slot >= cursor.slot:
            cursor.signature, cursor.slot = signature, slot
            cursor.save()
    return rows


def _deposit_transfer(row: CustodialDeposit, mint: str) -> Transfer:
    account = chart.unclaimed(mint) if row.user_id is None else chart.custodial(row.user_id, mint)
    return Transfer.move(
        f"custody_deposit:{row.signature}:{row.instruction}",
        chart.TransferKind.CUSTODY_DEPOSIT,
        debit=chart.custody_deposits(mint),
        credit=account,
        amount_atomic=row.amount_atomic,
    )


def attribute_deposit(deposit_id: int, *, user_id: int, by_id: int, note: str, mint: str) -> CustodialDeposit:
    """Credit an unclaimed deposit to a user: an operator's decision, kept with who took it and why.

    Raises `AlreadyAttributed`, `UnknownUser`."""
    _require_users(user_id)
    with transaction.atomic():
        changed = CustodialDeposit.objects.filter(pk=deposit_id, status=Status.UNCLAIMED).update(
            status=Status.ATTRIBUTED,
            user_id=user_id,
            attributed_by_id=by_id,
            attributed_at=timezone.now(),
            note=note,
        )
        if not changed:
            raise AlreadyAttributed(f"deposit {deposit_id} is not an unclaimed one")
        row = CustodialDeposit.objects.get(pk=deposit_id)
        post(
            [
                Transfer.move(
                    f"attribute:{row.pk}",
                    chart.TransferKind.ATTRIBUTE,
                    debit=chart.unclaimed(mint),
                    credit=chart.custodial(user_id, mint),
                    amount_atomic=row.amount_atomic,
                )
            ]
        )
    return row


def pay(*, payer_id: int, payee_id: int, amount_atomic: int, reference: str, mint: str) -> CustodialPayment:
    """Pay from one user's balance into another's. The same reference with the same content returns the payment that is
    stored; it is final at once.

    Raises `PaymentToSelf`, `UnknownUser`, `ReferenceUsed`, `InvalidAmount`, `InsufficientFunds` (of the ledger).
    """
    if amount_atomic <= 0:
        raise InvalidAmount("a payment is of more than nothing")
    if payer_id == payee_id:
        raise PaymentToSelf("a payment goes to another user")
    with transaction.atomic():
        stored = CustodialPayment.objects.filter(payer_id=payer_id, reference=reference).first()
        if stored is None:
            _require_users(payer_id, payee_id)
            CustodialPayment.objects.bulk_create(
                [
                    CustodialPayment(
                        payer_id=payer_id, payee_id=payee_id, amount_atomic=amount_atomic, reference=reference
                    )
                ],
                ignore_conflicts=True,
            )
            stored = CustodialPayment.objects.get(payer_id=payer_id, reference=reference)
        if (stored.payee_id, stored.amount_atomic) != (payee_id, amount_atomic):
            raise ReferenceUsed(f"reference {reference} stands for another payment")
        post(
            [
                Transfer.move(
                    f"pay:{stored.pk}",
                    chart.TransferKind.PAY,
                    debit=chart.custodial(payer_id, mint),
                    credit=chart.custodial(payee_id, mint),
                    amount_atomic=amount_atomic,
                )
            ]
        )
    return stored


def _require_users(*user_ids: int) -> None:
    known = set(get_user_model().objects.filter(pk__in=user_ids).values_list("pk", flat=True))
    if missing := set(user_ids) - known:
        raise UnknownUser(f"there is no user {min(missing)}")
