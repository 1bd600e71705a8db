"""Bonds: the mirror of each agent's account, and the transfers that its lifetime counters ask for.

Part of `chain_mirror`, inside its transaction and under the chain cursor's lock.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from django.db import connection

from apps.ledger.chart import AccountKind
from apps.ledger.types import Transfer
from apps.payments.errors import ChainRegression, IncompleteSnapshot
from apps.payments.models import AgentMirror
from apps.payments.services import chain_postings
from apps.payments.services.chain_postings import PostedBefore
from apps.payments.services.mirrored import Applied, BondMoved
from machpay.chain.accounts import AgentAccount

_MIRRORED: Final = (
    "owner",
    "bond_atomic",
    "open_claims_atomic",
    "pending_withdrawal_atomic",
    "withdrawal_unlock",
    "forfeited_atomic",
    "window_end",
    "deposited_total_atomic",
    "paid_total_atomic",
    "withdrawn_total_atomic",
    "swept_total_atomic",
)


def _mirrored(account: AgentAccount) -> tuple[str | int, ...]:
    """The values of `_MIRRORED`, in that order."""
    return (
        str(account.owner),
        account.bond,
        account.open_claims,
        account.pending_withdrawal,
        account.withdrawal_unlock,
        account.forfeited,
        account.window_end,
        account.deposited_total,
        account.paid_total,
        account.withdrawn_total,
        account.swept_total,
    )


def changed_agents(accounts: Mapping[str, AgentAccount], *, whole: bool) -> set[str]:
    """Agents whose mirror or whose posted deposits differ from the chain's account. `whole` says that `accounts` are
    all there are."""
    columns = ("agent", "status", "deposits_posted_atomic", *_MIRRORED)
    rows = AgentMirror.objects.all() if whole else AgentMirror.objects.filter(agent__in=accounts)
    stored = {agent: values for agent, *values in rows.values_list(*columns)}
    return {
        agent
        for agent, account in accounts.items()
        if (values := stored.get(agent)) is None
        or account.slashed != (values[0] == AgentMirror.Status.SLASHED)
        or values[1] != account.deposited_total
        or tuple(values[2:]) != _mirrored(account)
    }


_MIRROR: Final = """
UPDATE payments_agent m SET
    status = CASE WHEN n.slashed THEN 'SLASHED' ELSE m.status END,
    owner = n.owner, bond_atomic = n.bond, open_claims_atomic = n.claims, pending_withdrawal_atomic = n.withdrawal,
    withdrawal_unlock = n.unlock, forfeited_atomic = n.forfeited, window_end = n.window_end,
    deposited_total_atomic = n.deposited, paid_total_atomic = n.paid, withdrawn_total_atomic = n.withdrawn,
    swept_total_atomic = n.swept, slot = %s
FROM unnest(
    %s::text[], %s::boolean[], %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::bigint[], %s::numeric[],
    %s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[]
) AS n (
    agent, slashed, owner, bond, claims, withdrawal, unlock, forfeited, window_end, deposited, paid, withdrawn, swept
)
WHERE m.agent = n.agent AND m.slot < %s
"""


def mirror_agents(slot: int, accounts: Iterable[AgentAccount]) -> None:
    """Write the mirrors of locked agents, except where a later slot is there already."""
    rows = [(str(account.agent), account.slashed, *_mirrored(account)) for account in accounts]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_MIRROR, [slot, *(list(column) for column in zip(*rows, strict=True)), slot])


def follow_deposits(
    rows: Mapping[str, AgentMirror], accounts: Mapping[str, AgentAccount], mint: str, result: Applied
) -> list[Transfer]:
    transfers = []
    risen = []
    for agent, row in rows.items():
        if agent not in accounts or accounts[agent].deposited_total == row.deposits_posted_atomic:
            continue
        total = accounts[agent].deposited_total
        amount = total - row.deposits_posted_atomic
        if amount < 0:
            raise ChainRegression(f"deposits of {agent} fell from {row.deposits_posted_atomic} to {total}")
        row.deposits_posted_atomic = total
        risen.append(row)
        result.deposits.append(BondMoved(agent, amount))
        transfers.append(chain_postings.deposit(agent, mint, amount=amount, total=total))
    AgentMirror.objects.bulk_update(risen, ["deposits_posted_atomic"], batch_size=500)
    return transfers


def follow_withdrawals(
    accounts: Mapping[str, AgentAccount], before: PostedBefore, mint: str, result: Applied
) -> list[Transfer]:
    transfers = []
    for agent, account in accounts.items():
        amount = account.withdrawn_total - before.withdrawn.get(agent, 0)
        if amount < 0:
            raise ChainRegression(f"withdrawals of {agent} fell to {account.withdrawn_total}")
        if amount:
            result.withdrawals.append(BondMoved(agent, amount))
            transfers.append(
                chain_postings.withdraw(agent, mint, amount=amount, total=account.withdrawn_total)
            )
    return transfers


def follow_forfeits(
    accounts: Mapping[str, AgentAccount], before: PostedBefore, mint: str, result: Applied
) -> list[Transfer]:
    """Slashes and sweeps. A settlement of the same snapshot as its agent's slash counts as made before it:
    accounts do not tell, and both orders end in the same balances."""
    transfers = []
    for agent, account in accounts.items():
        if not account.slashed:
            continue
        swept = account.swept_total - before.swept.get(agent, 0)
        if swept < 0:
            raise ChainRegression(f"sweeps of {agent} fell to {account.swept_total}")
        forfeited = account.forfeited + swept
        if agent not in before.forfeited and forfeited:
            result.slashed.append(BondMoved(agent, forfeited))
            transfers.append(chain_postings.slash(agent, mint, amount=forfeited))
        if swept:
            result.swept.append(BondMoved(agent, swept))
            transfers.append(chain_postings.sweep(agent, mint, amount=swept, total=account.swept_total))
    return transfers


def require_complete(
    accounts: Mapping[str, AgentAccount], before: PostedBefore, transfers: Sequence[Transfer]
) -> None:
    """Whether these transfers bring the ledger to what each agent has on chain. They do not if a channel that was not
    looked at moved too. Raises `IncompleteSnapshot`."""
    held = dict(before.held)
    for transfer in transfers:
        for leg in transfer.legs:
            if leg.account.kind in (AccountKind.BOND, AccountKind.FORFEITED):
                held[leg.account.owner] = held.get(leg.account.owner, 0) + leg.amount_atomic
    on_chain = {agent: account.bond + account.forfeited for agent, account in accounts.items()}
    wrong = sorted(
        agent for agent in held.keys() | on_chain.keys() if held.get(agent, 0) != on_chain.get(agent)
    )
    if wrong:
        raise IncompleteSnapshot(f"accounts of {', '.join(wrong[:5])} moved that no known event touched")
