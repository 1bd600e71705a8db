"""`POST /complaints`: agents say what a gateway did with a payment, with what both sides signed as proof."""

from typing import Final

import msgspec

from apps.core import asgi
from apps.core.errors import DomainError
from apps.payments.errors import NotYours
from apps.payments.models import Complaint
from apps.payments.relayer.auth import authenticate
from apps.payments.relayer.directory import Directory
from apps.payments.relayer.threads import Threads
from apps.payments.services.complaints import Complained, complain
from machpay.chain.network import Network
from machpay.protocol.complaints import ComplaintAnswer, ComplaintRequest
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.settlements import decode_item, parse_item, verify_item

BODY_BYTES_MAX: Final = 16 * 1024

_decoder = msgspec.json.Decoder(ComplaintRequest)


class UnprovenComplaint(DomainError):
    """A signature in the payment or receipt is not what it has to be."""

    code = "invalid_signature"
    status = 422


class ComplaintEndpoint:
    """The handler; the relayer routes to it. `network` is what every channel is derived from."""

    def __init__(self, *, network: Network, directory: Directory, threads: Threads) -> None:
        self._network = network
        self._directory = directory
        self._threads = threads

    async def complain(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        said = self._parse(body)
        if said.agent != signer.pubkey:
            raise NotYours("an agent complains about its own payments only")
        # Refused for a gateway that does not exist on chain.
        await self._directory.vendor_of(said.gateway)
        if not await self._threads.verify(verify_item, said.payment):
            raise UnprovenComplaint("the payment or its receipt is not signed by whom it says")
        made = await self._threads.database(complain, said)
        await asgi.respond_json(send, ComplaintAnswer(made.id, str(made.verdict)), status=201)

    def _parse(self, body: bytes) -> Complained:
        request = asgi.decode(_decoder, body, "the body is not a complaint")
        try:
            item = decode_item(request.payment)
            gateway = parse_pubkey(request.gateway, "gateway")
            channel = self._network.channel(parse_pubkey(item.agent, "agent"), gateway)
            payment = parse_item(item, gateway=gateway, channel=channel)
        except MalformedError as error:
            raise asgi.BadRequest(error.detail) from error
        if request.kind not in Complaint.Kind.values:
            raise asgi.BadRequest(f"kind is one of {', '.join(Complaint.Kind.values)}")
        if b"\\u0000" in body:
            raise asgi.BadRequest("a complaint holds no NUL characters")
        return Complained(
            agent=str(payment.agent),
            gateway=str(gateway),
            kind=request.kind,
            payment=payment,
            item=msgspec.to_builtins(item),
            detail=request.detail,
        )
