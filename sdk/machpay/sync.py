"""`MachPayClient` for code that does not await: the same methods, blocking.

The asynchronous client runs on an event loop in a thread of its own, so this one works in scripts, in threads
(one client serves many), and inside a running loop, which it blocks meanwhile. Callbacks of the configuration
run on that thread and must not call back into the client. A forked process has no such thread: it makes a client of
its own.

    with MachPayClient(config) as client:
        response = client.pay_and_call("https://api.example/v1/embed")
"""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from machpay.client import MachPayClient as AsyncClient
from machpay.client import MachPayConfig, PaidResponse, Payment
from machpay.client.complaints import Evidence, Kind
from machpay.client.receipts import ReceiptFile
from machpay.client.uploads import Content
from machpay.client.withdrawals import BondInfo
from machpay.protocol.complaints import ComplaintAnswer
from machpay.protocol.offers import PaymentLookup
from machpay.protocol.proofs import InclusionProof
from machpay.protocol.receipts import SignedReceipt

T = TypeVar("T")

__all__ = ["MachPayClient", "StreamedResponse"]


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="machpay", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def is_another_process(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return os.getpid() != self._pid

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; interrupting the wait cancels it."""
        if self.is_another_process:
            work.close()
            raise RuntimeError("the client was made before a fork: each process makes its own")
        if self._is_closed or threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "the client is closed" if self._is_closed else "a callback must not call its own client"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise RuntimeError("the client was closed during the call") from error
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what still runs, do `last`, and end the thread."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await last
            await self._loop.shutdown_asyncgens()

        try:
            self.run(end())
        finally:
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class StreamedResponse:
    """A paid answer that is read piece by piece. `payment` and `charged` as in `PaidResponse`."""

    def __init__(self, response: PaidResponse, loop: _LoopThread) -> None:
        self._response = response
        self._loop = loop

    @property
    def status_code(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self._response.headers

    @property
    def payment(self) -> Payment | None:
        return self._response.payment

    @property
    def charged(self) -> int:
        return self._response.charged

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        return self._each(self._response.aiter_bytes(chunk_size))

    def iter_text(self, chunk_size: int | None = None) -> Iterator[str]:
        return self._each(self._response.aiter_text(chunk_size))

    def iter_lines(self) -> Iterator[str]:
        return self._each(self._response.aiter_lines())

    def read(self) -> bytes:
        """The rest of the answer."""
        return self._loop.run(self._response.aread())

    def _each(self, pieces: AsyncIterator[T]) -> Iterator[T]:
        async def step() -> tuple[T] | None:
            async for piece in pieces:
                return (piece,)
            return None

        while (found := self._loop.run(step())) is not None:
            yield found[0]


class MachPayClient:
    """The blocking agent client. Opens when it is made; use as a context manager or call `close()`. Methods,
    arguments and errors are those of `machpay.client.MachPayClient`."""

    def __init__(self, config: MachPayConfig) -> None:
        self.config = config
        self._loop = _LoopThread()
        try:
            self._client = self._loop.run(_opened(config))
        except BaseException:
            self._loop.close(asyncio.sleep(0))
            raise
        self._closing = threading.Lock()
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Save the state and end the thread. Calls that still run in other threads fail. Safe to repeat."""
        with self._closing:
            if self._is_open and not self._loop.is_another_process:
                self._is_open = False
                self._loop.close(self._client.__aexit__(None, None, None))

    @property
    def agent(self) -> str:
        """The agent's public key, base58."""
        return self._client.agent

    @property
    def receipts(self) -> ReceiptFile | None:
        """The receipts that are kept in the `state_dir`; None without one."""
        return self._client.receipts

    @property
    def evidence(self) -> Evidence:
        """What can be shown of payments that were not served."""
        return self._client.evidence

    def pay_and_call(
        self,
        url: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Content | None = None,
        max_price_atomic: int | None = None,
        retries: int = 0,
        payment_id: str | None = None,
    ) -> PaidResponse:
        """Call `url` and pay for it if it asks for payment."""
        return self._loop.run(
            self._client.pay_and_call(
                url,
                method,
                headers=headers,
                params=params,
                json=json,
                content=content,
                max_price_atomic=max_price_atomic,
                retries=retries,
                payment_id=payment_id,
            )
        )

    @contextlib.contextmanager
    def stream(
        self,
        url: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Content | None = None,
        max_price_atomic: int | None = None,
        retries: int = 0,
        payment_id: str | None = None,
    ) -> Iterator[StreamedResponse]:
        """`pay_and_call` whose answer is read piece by piece: `for piece in response.iter_bytes()`."""
        opened = self._client.stream(
            url,
            method,
            headers=headers,
            params=params,
            json=json,
            content=content,
            max_price_atomic=max_price_atomic,
            retries=retries,
            payment_id=payment_id,
        )
        response = self._loop.run(_enter(opened))
        try:
            yield StreamedResponse(response, self._loop)
        finally:
            self._loop.run(_leave(opened))

    def look_up(self, url: str, digest: bytes) -> PaymentLookup:
        """Ask the gateway at `url`'s origin what became of the payment `digest`."""
        return self._loop.run(self._client.look_up(url, digest))

    def complain(self, payment: Payment | bytes, kind: Kind = "DENIED", detail: str = "") -> ComplaintAnswer:
        """As `MachPayClient.complain`."""
        return self._loop.run(self._client.complain(payment, kind, detail))

    verify_receipt = staticmethod(AsyncClient.verify_receipt)

    def verify_inclusion(
        self,
        payment: SignedReceipt | bytes,
        proof: InclusionProof | bytes | str | Path | None = None,
    ) -> bool:
        """As `MachPayClient.verify_inclusion`."""
        return self._loop.run(self._client.verify_inclusion(payment, proof))

    def deposit_bond(self, amount_atomic: int, *, owner: str | None = None) -> str:
        """Put tokens from the agent's wallet on its bond; returns the transaction's signature."""
        return self._loop.run(self._client.deposit_bond(amount_atomic, owner=owner))

    def get_bond_balance(self) -> int:
        """The agent's bond on chain in atomic units."""
        return self._loop.run(self._client.get_bond_balance())

    def get_bond_info(self) -> BondInfo:
        """As `MachPayClient.get_bond_info`."""
        return self._loop.run(self._client.get_bond_info())

    def withdraw_bond(self, amount_atomic: int) -> str:
        """As `MachPayClient.withdraw_bond`."""
        return self._loop.run(self._client.withdraw_bond(amount_atomic))

    def cancel_withdrawal(self) -> str:
        """As `MachPayClient.cancel_withdrawal`."""
        return self._loop.run(self._client.cancel_withdrawal())


async def _opened(config: MachPayConfig) -> AsyncClient:
    return await AsyncClient(config).__aenter__()


async def _enter(context: contextlib.AbstractAsyncContextManager[T]) -> T:
    return await context.__aenter__()


async def _leave(context: contextlib.AbstractAsyncContextManager[Any]) -> None:
    await context.__aexit__(None, None, None)
