"""The bond's configuration on chain, as far as leases depend on it."""

from django.db import connection

from machpay.chain.accounts import GlobalBond

_REMEMBER = """
INSERT INTO payments_chain_config AS k (id, min_bond_atomic, timelock_s, claim_delay_s, slot) VALUES (1, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET
    min_bond_atomic = excluded.min_bond_atomic, timelock_s = excluded.timelock_s,
    claim_delay_s = excluded.claim_delay_s, slot = excluded.slot
WHERE k.slot < excluded.slot AND (k.min_bond_atomic, k.timelock_s, k.claim_delay_s)
    IS DISTINCT FROM (excluded.min_bond_atomic, excluded.timelock_s, excluded.claim_delay_s)
"""


def remember_config(bond: GlobalBond, slot: int) -> None:
    """Take over what `bond` said at finalised `slot`, unless something later is there."""
    with connection.cursor() as cursor:
        cursor.execute(_REMEMBER, [bond.min_bond, bond.timelock, bond.claim_delay, slot])
