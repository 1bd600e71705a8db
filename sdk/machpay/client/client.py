"""`MachPayClient`: pay for HTTP requests and keep the bond.

Wires the parts together: `paying` over `exchange` over `transport`, the bond over the chain. A call that fails
is always one of three: nothing was charged and it may be repeated, the outcome is proven by a receipt, or it
is reported as unresolved with its digest. It is never paid a second time behind the caller's back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.client.anchors import fetch_proof, parse_proof, verify_inclusion
from machpay.client.balance import BalanceWatch
from machpay.client.bonds import BondAccess, BondManager
from machpay.client.book import ChannelBook
from machpay.client.complaints import Evidence, Kind, send_complaint
from machpay.client.config import MachPayConfig
from machpay.client.cosigning import Cosigner
from machpay.client.errors import (
    BondError,
    ConfigError,
    GatewayMismatchError,
    InsufficientBondError,
    PaymentRefusedError,
    UnknownPaymentError,
)
from machpay.client.exchange import Exchange
from machpay.client.paying import Payer
from machpay.client.payments import PaidResponse, Payment
from machpay.client.prices import Prices
from machpay.client.receipts import ReceiptFile
from machpay.client.spending import Spending
from machpay.client.store import state_path
from machpay.client.telemetry import Telemetry
from machpay.client.terms import origin_of
from machpay.client.transport import Transport
from machpay.client.uploads import Content, Source, open_content
from machpay.client.vendors import Vendors
from machpay.client.withdrawals import BondInfo, WithdrawalManager
from machpay.protocol.complaints import ComplaintAnswer
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.offers import PaymentLookup
from machpay.protocol.proofs import InclusionProof
from machpay.protocol.receipts import SignedReceipt


class MachPayClient:
    """Pays gateways for one agent. Use as an async context manager; safe for many calls at once in one event
    loop.

    Several processes may use one key at the same time: they need no coordination, only now and then one more
    round trip.
    """

    def __init__(self, config: MachPayConfig) -> None:
        self.config = config
        self._key = config.key
        self._transport = Transport(timeout_s=config.timeout_s, max_connections=config.max_connections)
        self._chain = ChainClient(config.rpc_url, config.network) if config.rpc_url else None
        self._book = ChannelBook(config, self._chain)
        self._exchange = Exchange(self._transport, self._book, config)
        folder = config.state_dir
        spent = None if folder is None else state_path(folder, self.agent, config.network, "spent.json")
        self._spending = Spending(config.budgets, self.agent, spent)
        self._watch = self._balance_watch()
        self._telemetry: Telemetry | None = None
        if config.receiver_url is not None:
            self._telemetry = Telemetry(
                config, config.receiver_url, self._transport, self._chain, self._watch
            )
        self._cosigner: Cosigner | None = None
        if config.relayer_url is not None and config.cosigns:
            self._cosigner = Cosigner(
                key=self._key,
                network=config.network,
                transport=self._transport,
                relayer_url=config.relayer_url,
                every_s=config.cosign_s,
            )
        self._prices = Prices(config)
        kept = None if folder is None else state_path(folder, self.agent, config.network, "unserved.jsonl")
        self.evidence = Evidence(self._key, kept)
        """What can be shown of payments that were not served; see `complain`."""
        self._payer = Payer(
            config,
            self._transport,
            self._book,
            self._exchange,
            self._spending,
            self._prices,
            Vendors(config.budgets, self._chain),
            self.evidence,
            self._telemetry,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._transport)
        if self._chain is not None:
            await self._stack.enter_async_context(self._chain)
        self._stack.callback(self._book.save)
        if self._watch is not None:
            await self._stack.enter_async_context(_running(self._watch.run()))
        if self._cosigner is not None:
            await self._stack.enter_async_context(_running(self._cosigner.run()))
        if self._telemetry is not None:
            await self._stack.enter_async_context(_running(self._telemetry.run()))
        self._stack.push_async_callback(self._exchange.unheard.finish)
        await self._stack.enter_async_context(_running(self._exchange.unheard.run()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def agent(self) -> str:
        """The agent's public key, base58."""
        return self._key.pubkey

    @property
    def receipts(self) -> ReceiptFile | None:
        """The receipts that are kept in the `state_dir`; None without one."""
        return self._book.receipts

    # ---- paying

    async def pay_and_call(
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
        """Call `url` and pay for it if it asks for payment.

        `content` may be a file or an asynchronous iterator of bytes: it is sent as it is read, never held. An iterator
        can be sent once: see `BodySpentError`.

        The price of a route is learned from its first 402 and paid up front from then on. Returns the answer,
        whatever its status, with `payment` (None on a free route); an upstream's failure is an ordinary
        answer that charged 0. With `retries` a failure that surely charged nothing (429, 500, 502 to 504, no
        connection, an answer lost and void) is repeated, as a new payment: the upstream may see the request
        again. All payments of one call carry one identifier, under which a gateway serves and charges once; so one
        whose outcome is unknown is repeated too, and answered as before. A `payment_id` of the caller's own (16 to 128
        letters, digits, - or _) does the same across processes and crashes. Raises a `ClientError`; see
        `machpay.client.errors` for what each means for the money.
        """
        body = await open_content(content)
        request = self._build(url, method, headers, params, json, body)
        return await self._buy(
            request, body, max_price_atomic, streams=False, retries=retries, payment_id=payment_id
        )

    @contextlib.asynccontextmanager
    async def stream(
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
    ) -> AsyncIterator[PaidResponse]:
        """`pay_and_call` whose answer is read piece by piece: `async for piece in response.aiter_bytes()`.

        `response.payment` is there from the start, with the receipt that came before the body. An answer that
        is not a success has been read. If the line breaks, iterating raises `ResponseLostError` with the
        outcome that the gateway names then: it takes back the charge of an answer that its upstream broke
        off. A caller that stops reading early has paid. `retries` repeats what fails before the body begins.

        A metered stream is charged at its end: `response.payment` names its ceiling until then (`is_final` False), and
        what it cost when the last piece was read.
        """
        body = await open_content(content)
        request = self._build(url, method, headers, params, json, body)
        response = await self._buy(
            request, body, max_price_atomic, streams=True, retries=retries, payment_id=payment_id
        )
        is_metered = response.payment is not None and not response.payment.is_final
        try:
            yield response
        finally:
            await response.aclose()
            if is_metered and response.payment is not None and self._telemetry is not None:
                self._telemetry.spent(response.payment.vendor, response.charged)

    def _build(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str] | None,
        params: Mapping[str, Any] | None,
        json: Any,
        body: bytes | str | Source | None,
    ) -> httpx.Request:
        content = None if isinstance(body, Source) else body
        request = self._transport.build(
            method.upper(), url, headers=headers, params=params, json=json, content=content
        )
        if isinstance(body, Source):
            # httpx has counted the body it was not given.
            request.headers.pop("Content-Length", None)
            if body.length is not None:
                request.headers["Content-Length"] = str(body.length)
        return request

    async def _buy(
        self,
        request: httpx.Request,
        body: bytes | str | Source | None,
        max_price_atomic: int | None,
        *,
        streams: bool,
        retries: int,
        payment_id: str | None,
    ) -> PaidResponse:
        try:
            response = await self._payer.buy(
                request,
                max_price_atomic,
                streams=streams,
                retries=retries,
                payment_id=payment_id,
                source=body if isinstance(body, Source) else None,
            )
        except PaymentRefusedError as error:
            self.evidence.unserved(error.digest, error.code)
            if self._watch is not None and isinstance(error, InsufficientBondError):
                self._watch.look_soon()
            raise
        paid = response.payment
        if paid is not None and paid.receipt is not None and response.is_error and not paid.charged:
            self.evidence.unserved(paid.digest, f"http_{response.status_code}", paid.receipt)
        return response

    async def look_up(self, url: str, digest: bytes) -> PaymentLookup:
        """Ask the gateway at `url`'s origin what became of the payment `digest`.

        The receipt in the answer is checked against the origin's gateway key, if that is known, and counted.
        Raises `GatewayUnreachableError`, `GatewayMismatchError`.
        """
        origin = origin_of(url)
        try:
            lookup, receipt = await self._exchange.look_up(origin, digest)
        except MalformedError as error:
            raise GatewayMismatchError(url, f"its answer to a look-up is not one: {error.detail}") from error
        gateway = self._prices.gateway_of(origin)
        if receipt is not None and gateway is not None:
            if receipt.receipt.digest != digest or not receipt.is_signed_by(gateway):
                raise GatewayMismatchError(url, "the receipt in its answer to a look-up is not valid")
            channel = self._book.channel(gateway)
            if channel.is_open(digest):
                self._book.count(channel, receipt)
        return lookup

    async def complain(
        self, payment: Payment | bytes, kind: Kind = "DENIED", detail: str = ""
    ) -> ComplaintAnswer:
        """Tell the network what a gateway did with a payment, within a day: that it was not served although it should
        have been ("DENIED"), or that more was charged than its receipt says ("OVERCHARGED").

        `payment` is that of a response, or a digest: of a `PaymentRefusedError`, or of `evidence.kept()`. Returns the
        relayer's id and verdict: "NOTED", "PROVEN" or "REFUTED". Raises `UnknownPaymentError`,
        `ComplaintRefusedError`, `GatewayUnreachableError`, `ConfigError` without a `relayer_url`.
        """
        digest = payment.digest if isinstance(payment, Payment) else payment
        receipt = payment.receipt if isinstance(payment, Payment) else None
        shown = self.evidence.find(digest, receipt)
        if shown is None:
            raise UnknownPaymentError(digest)
        return await send_complaint(self._transport, self._key, self.config.relayer_url, shown, kind, detail)

    @staticmethod
    def verify_receipt(
        receipt: SignedReceipt | Mapping[str, object], *, gateway: str, digest: bytes | None = None
    ) -> bool:
        """True if `receipt` (or its JSON) is signed by `gateway` (base58) and, if given, is for payment
        `digest`."""
        try:
            signed = receipt if isinstance(receipt, SignedReceipt) else SignedReceipt.from_json(dict(receipt))
            key = Pubkey.from_string(gateway)
        except (MalformedError, ValueError):
            return False
        return signed.is_signed_by(key) and digest in (None, signed.receipt.digest)

    async def verify_inclusion(
        self,
        payment: SignedReceipt | bytes,
        proof: InclusionProof | bytes | str | Path | None = None,
    ) -> bool:
        """True if the payment is in a batch that the chain has anchored for good.

        `payment` is its receipt, whose charge must be the anchored one, or its digest. The `proof` (JSON, or the path
        of a file) is fetched from `api_url` if none is given; root and leaf count always come from the chain, so the
        answer needs nobody's word. Raises `NotAnchoredError`, `ProofUnavailableError`, `ConfigError` without an
        `rpc_url`, `ChainError`.
        """
        receipt = payment if isinstance(payment, SignedReceipt) else None
        digest = payment.receipt.digest if isinstance(payment, SignedReceipt) else payment
        if self._chain is None:
            raise ConfigError("rpc_url is not set: the anchored roots are on chain")
        if proof is None:
            if self.config.api_url is None:
                raise ConfigError("api_url is not set, and no proof was given")
            proof = await fetch_proof(self._transport, self.config.api_url, digest, receipt)
        return await verify_inclusion(self._chain, parse_proof(proof, digest), digest, receipt)

    # ---- the bond

    async def deposit_bond(self, amount_atomic: int, *, owner: str | None = None) -> str:
        """Put tokens from the agent's wallet on its bond and wait until gateways count them; returns the
        transaction's signature.

        The first deposit names the `owner` wallet (base58) that withdrawals go to: the agent by default.
        Raises `BondError` and its kinds, `machpay.chain.errors.ChainError`; after a `DepositUnresolvedError` look at
        the bond before depositing again.
        """
        try:
            wallet = None if owner is None else parse_pubkey(owner, "owner")
        except MalformedError as error:
            raise BondError(error.detail) from error
        return await self._bonds.deposit(amount_atomic, owner=wallet)

    async def get_bond_balance(self) -> int:
        """The agent's bond on chain in atomic units; 0 before the first deposit. Raises `ChainError`."""
        return await self._bonds.balance()

    async def get_bond_info(self) -> BondInfo:
        """The agent's bond, its pending withdrawal and what it owes. Raises `BondError`, `ChainError`."""
        return await self._withdrawals.info()

    async def withdraw_bond(self, amount_atomic: int) -> str:
        """Take tokens off the bond, in two calls: the first requests it and starts the timelock, the same call
        after that executes it, paying the owner's token account. Returns the transaction's signature.

        What settlements and claims took meanwhile is not paid. Raises `TimelockError` with the unlock time while it
        is locked, `InsufficientBondError` for more than the bond or one that would leave less than the minimum
        without emptying it, `OutstandingLiabilityError` while the relayer knows unsettled charges, other
        `BondError`s, `ChainError`.
        """
        return await self._withdrawals.withdraw(amount_atomic)

    async def cancel_withdrawal(self) -> str:
        """Take the pending withdrawal back, as the bond's owner; returns the transaction's signature. Raises
        `BondError`, `ChainError`."""
        return await self._withdrawals.cancel()

    @property
    def _bonds(self) -> BondManager:
        return BondManager(self._bond_access())

    @property
    def _withdrawals(self) -> WithdrawalManager:
        return WithdrawalManager(self._bond_access())

    def _bond_access(self) -> BondAccess:
        if self._chain is None:
            raise ConfigError("rpc_url is not set: the bond lives on chain")
        config = self.config
        return BondAccess(self._chain, config.network, self._key, self._transport, config.relayer_url)

    def _balance_watch(self) -> BalanceWatch | None:
        config = self.config
        if config.on_low_balance is None:
            return None
        return BalanceWatch(
            key=self._key,
            transport=self._transport,
            chain=self._chain,
            relayer_url=config.relayer_url,
            threshold_atomic=config.low_balance_atomic,
            every_s=config.balance_check_s,
            tell=config.on_low_balance,
        )


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something that goes on beside the calls and ends with the client."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
