"""`GET /aggregations?agent=` and `POST /aggregations/{id}/sign`: an agent co-signs what recon proposes.

Both are signed by the agent's key. Asking is what makes an agent one that is proposed to.
"""

from typing import Final
from urllib.parse import parse_qs
from uuid import UUID

import msgspec

from apps.core import asgi
from apps.payments.errors import NotYours, UnknownAggregation
from apps.payments.relayer.auth import authenticate
from apps.payments.relayer.threads import Threads
from apps.payments.services.aggregations import asked, sign
from machpay.chain.network import Network
from machpay.protocol.aggregates import AggregationAnswer, AggregationList, AggregationSignature
from machpay.protocol.errors import MalformedError

SIGNATURE_BYTES_MAX: Final = 1_024

_signature_decoder = msgspec.json.Decoder(AggregationSignature)


class AggregationEndpoints:
    """The two handlers."""

    def __init__(self, *, network: Network, threads: Threads) -> None:
        self._network = network
        self._threads = threads

    async def listed(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """The agent's open proposals. `agent` may be left out: it is the signer."""
        body = await asgi.read_body(scope, receive, limit=0)
        wanted = parse_qs(scope["query_string"].decode("latin-1")).get("agent", [])
        signer = await authenticate(scope, body, self._threads)
        if any(agent != signer.pubkey for agent in wanted):
            raise NotYours("only the agent itself sees what it may co-sign")
        proposals = await self._threads.database(asked, signer.pubkey)
        await asgi.respond_json(send, AggregationList(proposals))

    async def sign(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Take the agent's signature."""
        body = await asgi.read_body(scope, receive, limit=SIGNATURE_BYTES_MAX)
        signer = await authenticate(scope, body, self._threads)
        name = scope["path"].removesuffix("/sign").rpartition("/")[2]
        try:
            aggregation_id = UUID(name)
        except ValueError as error:
            raise UnknownAggregation("no open proposal to this agent has this id") from error
        try:
            signature = asgi.decode(_signature_decoder, body, "the body is not a signature").parse()
        except MalformedError as error:
            raise asgi.BadRequest(f"the body is not a signature: {error}") from error
        status = await self._threads.database(
            sign, aggregation_id, agent=signer.pubkey, signature=signature, network=self._network
        )
        await asgi.respond_json(send, AggregationAnswer(str(aggregation_id), status))
