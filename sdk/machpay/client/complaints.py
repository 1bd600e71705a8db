"""What an agent can show of payments that it signed, and `POST /complaints` on the relayer.

Payments that were not served are kept with the gateway's receipt, if there is one, also in a file of the state folder:
a denial counts once others complain about the same gateway (docs/settlement.md).
"""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from machpay.client.balance import ask_relayer
from machpay.client.errors import ComplaintRefusedError, ConfigError
from machpay.client.lines import LineFile
from machpay.client.orders import Order
from machpay.client.transport import Transport
from machpay.protocol.complaints import ComplaintAnswer, ComplaintRequest
from machpay.protocol.encoding import decode_json, to_b64, to_rfc3339
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.settlements import SettlementItem, intent_item

Kind = Literal["DENIED", "OVERCHARGED"]

REMEMBERED: Final = 1_024
MAX_FILE_BYTES: Final = 1024 * 1024
"""About 1,500 payments; twice that are kept."""

_answer: Final = msgspec.json.Decoder(ComplaintAnswer)


class Shown(msgspec.Struct):
    """One payment as the agent can show it: a settlement item, signed by the agent and, with a receipt, by the gateway.
    `reason` is the code of a refusal, or the HTTP status of an answer that charged nothing."""

    payment: str
    reason: str
    item: SettlementItem


_decoder: Final = msgspec.json.Decoder(Shown)


class Evidence:
    """The latest payments of this process, and in the file of `path` those that were not served."""

    def __init__(self, key: SigningKey, path: Path | None) -> None:
        self._key = key
        self._file = None if path is None else LineFile(path, MAX_FILE_BYTES)
        self._orders: OrderedDict[bytes, Order] = OrderedDict()
        self._shown: OrderedDict[bytes, Shown] = OrderedDict()

    def signed(self, order: Order) -> None:
        """Remember a payment."""
        self._orders[order.digest] = order
        if len(self._orders) > REMEMBERED:
            self._orders.popitem(last=False)

    def unserved(self, digest: bytes, reason: str, receipt: SignedReceipt | None = None) -> None:
        """Keep a payment that was refused or charged nothing; trouble with the file is logged."""
        shown = self._show(digest, reason, receipt)
        if shown is None:
            return
        self._shown[digest] = shown
        if len(self._shown) > REMEMBERED:
            self._shown.popitem(last=False)
        if self._file is not None:
            self._file.append(msgspec.json.encode(shown))

    def find(self, digest: bytes, receipt: SignedReceipt | None) -> Shown | None:
        """What can be shown of a payment, with `receipt` if that is given."""
        if receipt is None and digest in self._shown:
            return self._shown[digest]
        shown = self._show(digest, "", receipt)
        if shown is not None:
            return shown
        wanted = digest.hex()
        return next((one for one in self.kept() if one.payment == wanted), None)

    def kept(self) -> Iterator[Shown]:
        """The payments in the file, oldest first."""
        for line in () if self._file is None else self._file.read():
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue

    def _show(self, digest: bytes, reason: str, receipt: SignedReceipt | None) -> Shown | None:
        order = self._orders.get(digest)
        if order is None:
            return None
        # The same bytes as were sent: signatures are deterministic.
        signature = order.intent.sign(self._key)
        item = intent_item(self._key.public, order.offer.gateway, order.intent, signature)
        item.vendor, item.charged, item.status = str(order.offer.vendor), "0", "void"
        if receipt is not None:
            told = receipt.receipt
            item.http_status, item.charged = told.http_status, str(told.charged)
            item.status = "charged" if told.charged else "void"
            item.served_total, item.served_at = str(told.served_total), to_rfc3339(told.time)
            item.receipt = to_b64(receipt.signature)
        return Shown(digest.hex(), reason, item)


async def send_complaint(
    transport: Transport, key: SigningKey, relayer_url: str | None, shown: Shown, kind: Kind, detail: str
) -> ComplaintAnswer:
    """Hand a complaint in. Raises `ConfigError`, `ComplaintRefusedError`, `GatewayUnreachableError`."""
    if relayer_url is None:
        raise ConfigError("relayer_url is not set: complaints go to the relayer")
    payment = msgspec.Raw(msgspec.json.encode(shown.item))
    body = msgspec.json.encode(ComplaintRequest(shown.item.gateway, kind, payment, detail))
    answer = await ask_relayer(transport, key, relayer_url, "POST", "/complaints", body)
    if answer.status_code != 201:
        raise ComplaintRefusedError(answer.status_code, answer.text[:500])
    try:
        judged: ComplaintAnswer = decode_json(_answer, answer.content, "the relayer's answer")
    except MalformedError as error:
        raise ComplaintRefusedError(answer.status_code, error.detail) from error
    return judged
