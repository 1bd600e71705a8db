"""The mark of a request that a sibling passes on, in one header:

    machpay-sibling: <unix s>;<client's address>;<scheme>;<hex HMAC-SHA256(secret, fields below, one per line)>
        the gateway it is for, time, address, scheme, METHOD, target as received

It is good for a minute, for this process and this request line only. Repeating one does nothing that sending the
request again would not do: what protects payments is the payment.
"""

import hmac
from typing import Final, NamedTuple

HEADER: Final = b"machpay-sibling"
WINDOW_S: Final = 60


class Origin(NamedTuple):
    """Where a forwarded request came from."""

    client: str
    scheme: str


def seal(
    secret: bytes, origin: Origin, *, gateway: str, method: str, target: bytes, now: float
) -> tuple[bytes, bytes]:
    """The header for a request to the sibling with identity `gateway`; `now` is unix seconds."""
    time = str(int(now))
    mac = _mac(secret, gateway, time, origin, method, target)
    return HEADER, ";".join((time, origin.client, origin.scheme, mac)).encode("latin-1")


def unseal(
    secret: bytes, value: bytes, *, gateway: str, method: str, target: bytes, now: float
) -> Origin | None:
    """Where the request came from; None if the mark is not a sibling's, or not for this request now."""
    fields = value.decode("latin-1").split(";")
    if len(fields) != 4 or not fields[0].isascii() or not fields[0].isdigit() or len(fields[0]) > 12:
        return None
    time, client, scheme, mac = fields
    origin = Origin(client, scheme)
    expected = _mac(secret, gateway, time, origin, method, target)
    if not hmac.compare_digest(expected.encode(), mac.encode("latin-1")):
        return None
    return origin if abs(now - int(time)) <= WINDOW_S else None


def _mac(secret: bytes, gateway: str, time: str, origin: Origin, method: str, target: bytes) -> str:
    lines = "\n".join((gateway, time, origin.client, origin.scheme, method)).encode("latin-1")
    return hmac.digest(secret, lines + b"\n" + target, "sha256").hex()
