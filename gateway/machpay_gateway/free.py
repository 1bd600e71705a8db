"""Requests that cost nothing: carried to the upstream and back, not recorded, ended when the client hangs up."""

import logging

from machpay_gateway.errors import RequestError, UpstreamError
from machpay_gateway.headers import to_client
from machpay_gateway.metrics import Metrics
from machpay_gateway.patience import Patience
from machpay_gateway.reply import ClientStalled, Reply
from machpay_gateway.request import Request
from machpay_gateway.upstream import Upstream, UpstreamAnswer

logger = logging.getLogger(__name__)


class FreeExchanges:
    """Serves requests for free routes."""

    def __init__(
        self, upstream: Upstream, metrics: Metrics, answer_timeout_s: float, write_timeout_s: float
    ) -> None:
        self._upstream = upstream
        self._write_timeout_s = write_timeout_s
        self._metrics = metrics
        self._answer_patience = Patience(answer_timeout_s)

    async def serve(self, label: str, request: Request, reply: Reply) -> None:
        """Answer one request. Raises `RequestError` if the upstream fails before its answer starts, `ClientGone`."""
        self._metrics.requests.add(1, "free", label)
        await request.read_head()
        try:
            with self._answer_patience.limit():
                answer = await self._upstream.open(request)
        except UpstreamError as error:
            raise RequestError(error.status, error.code, error.detail) from error
        except TimeoutError as error:
            raise RequestError(504, "upstream_timeout", "the upstream did not answer in time") from error
        try:
            if answer.status == 402:
                raise RequestError(502, "upstream_payment_required", "the upstream wants to be paid itself")
            await self._pass_on(answer, request, reply)
        finally:
            answer.close()

    async def _pass_on(self, answer: UpstreamAnswer, request: Request, reply: Reply) -> None:
        headers = to_client(answer.headers, paid=False)
        if answer.is_complete:
            await reply.whole(answer.status, headers, await answer.read())
            return
        await reply.start(answer.status, headers)
        try:
            async for chunk in answer.chunks():
                if request.is_gone:
                    return
                await reply.piece(chunk, self._write_timeout_s)
            await reply.end()
        except ClientStalled:
            request.abort()
        except UpstreamError as error:
            # The connection is dropped without its end mark, so the client sees that the answer is not whole.
            logger.info("%s: the upstream broke off its answer: %s", request.path, error)
