"""solana-py's JSON-RPC client without two of its habits.

Its provider repeats a request whose answer did not come. That is welcome for a read; but a transaction that was sent
twice unseen may be refused the second time because it landed the first time, and the refusal would pass for the whole
truth. So sending happens once. And solders, which reads the answers, takes an error of a number it does not know for a
result, and panics, which is no `Exception`, over one that lacks its data. RPC services do answer like that.
"""

from typing import Any, Final, TypeVar, get_args

from solana.rpc.async_api import AsyncClient
from solana.rpc.async_http_provider import AsyncHTTPProvider
from solana.rpc.core import RPCException
from solders.rpc.requests import Body
from solders.rpc.responses import RPCError, RPCResult

T = TypeVar("T", bound=RPCResult)

_SHOWN_CHARACTERS: Final = 200


class RpcClient(AsyncClient):
    """`AsyncClient` over HTTP/1.1. An answer that cannot be read is a `ValueError`."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        # Not AsyncClient's own, which would make a second provider.
        super(AsyncClient, self).__init__()
        self._provider = _Provider(url, timeout=timeout_seconds, http2=False)


class _Provider(AsyncHTTPProvider):
    async def make_request(self, body: Body, parser: type[T]) -> T:
        """The answer as solders has it. Raises `RPCException`, `SolanaRpcException`, `ValueError`."""
        raw = await self.make_request_unparsed(body)
        try:
            answer: Any = parser.from_json(raw)  # type: ignore[attr-defined]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise _unreadable(raw) from error
        if isinstance(answer, get_args(RPCError)):
            raise RPCException(answer)
        if isinstance(answer, int):
            raise _unreadable(raw)
        return answer  # type: ignore[no-any-return]

    async def _post_request(self, content: str, headers: dict[str, str]) -> Any:
        if '"sendTransaction"' in content:
            return await self._post_request_once(content, headers)
        return await super()._post_request(content, headers)


def _unreadable(raw: str) -> ValueError:
    return ValueError(f"not an answer of Solana's: {raw[:_SHOWN_CHARACTERS]!r}")
