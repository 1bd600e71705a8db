"""`GET /liability/{agent}`: what an agent owes and is good for, told to itself and to registered gateways."""

from urllib.parse import parse_qs

from apps.core import asgi
from apps.payments.errors import ChainUnavailable, NotYours, UnknownGateway
from apps.payments.relayer.auth import authenticate
from apps.payments.relayer.directory import Asker, Directory
from apps.payments.relayer.threads import Threads
from apps.payments.selectors.liability import liability_answer, no_bond
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.signed_requests import RequestSigner
from machpay.protocol.snapshots import LiabilityAnswer


class LiabilityEndpoint:
    """The handler; the relayer routes to it."""

    def __init__(self, *, directory: Directory, threads: Threads) -> None:
        self._directory = directory
        self._threads = threads

    async def tell(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=0)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        try:
            agent = str(parse_pubkey(scope["path"].rpartition("/")[2], "agent"))
            excluded = [str(parse_pubkey(key, "exclude_gateway")) for key in query.get("exclude_gateway", [])]
        except MalformedError as error:
            raise asgi.BadRequest(error.detail) from error
        if len(excluded) > 1:
            raise asgi.BadRequest("exclude_gateway may be given once")
        signer = await authenticate(scope, body, self._threads)
        asking_gateway = await self._asking_gateway(signer, agent)
        answer = await self._answer(agent, excluded[0] if excluded else None, asking_gateway)
        await asgi.respond_json(send, answer)

    async def _asking_gateway(self, signer: RequestSigner, agent: str) -> str | None:
        if signer.pubkey == agent:
            return None
        try:
            await self._directory.vendor_of(signer.pubkey)
        except UnknownGateway as error:
            raise NotYours(
                "only the agent itself and registered gateways see an agent's liability"
            ) from error
        return signer.pubkey

    async def _answer(self, agent: str, excluded: str | None, asking_gateway: str | None) -> LiabilityAnswer:
        async def read() -> LiabilityAnswer | None:
            return await self._threads.database(
                liability_answer, agent=agent, exclude_gateway=excluded, asking_gateway=asking_gateway
            )

        answer = await read()
        if answer is not None and answer.snapshot.bond != "0":
            return answer
        # Nobody is told "no bond" from a mirror that may only be late.
        try:
            asker: Asker = "agent" if asking_gateway is None else "gateway"
            found = await self._directory.refresh_agent(agent, asker=asker)
        except ChainUnavailable:
            if answer is None:
                raise
            return answer
        if found:
            answer = await read()
        return answer if answer is not None else await self._threads.database(no_bond, agent)
