"""Looking up holds that can still be resolved. The caller has locked their accounts, so the answer stays true."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from django.db.backends.utils import CursorWrapper

from apps.ledger.errors import HoldNotFound, HoldResolved

_FIND: Final = """
SELECT id, key, account_id, amount_atomic,
       CASE WHEN state = 'OPEN' AND expires_at <= now() THEN 'EXPIRED' ELSE state END
FROM ledger_hold WHERE key = ANY(%s)
"""


class OpenHold(NamedTuple):
    id: int
    account_id: int
    amount_atomic: int


def open_holds(cursor: CursorWrapper, keys: Sequence[str]) -> dict[str, OpenHold]:
    """The open holds of `keys`. A hold whose time is over is not open, also before its row says so.

    Raises `HoldNotFound`, `HoldResolved`.
    """
    if not keys:
        return {}
    cursor.execute(_FIND, [list(keys)])
    found = {}
    for id_, key, account_id, amount, state in cursor.fetchall():
        if state != "OPEN":
            raise HoldResolved(f"hold {key} is {state.lower()}")
        found[key] = OpenHold(id_, account_id, int(amount))
    for key in keys:
        if key not in found:
            raise HoldNotFound(f"there is no hold {key}")
    return found
