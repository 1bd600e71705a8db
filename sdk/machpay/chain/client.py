"""Reading from and sending to a cluster, over solana-py's JSON-RPC client.

Reads name their commitment: money follows `finalized`, alarms may look at `confirmed`. Transactions are signed once
and only the same bytes are sent again. Every failure is a `machpay.chain.errors.ChainError`.
"""

import asyncio
import struct
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self, TypeVar

from solana.exceptions import SolanaRpcException
from solana.rpc.commitment import Commitment as RpcCommitment
from solana.rpc.core import RPCException
from solana.rpc.models import MemcmpOpts, TxOpts
from solders.account import Account as SolanaAccount
from solders.account_decoder import UiAccountEncoding
from solders.commitment_config import CommitmentLevel
from solders.compute_budget import set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rpc.config import RpcAccountInfoConfig, RpcProgramAccountsConfig
from solders.rpc.errors import (
    InternalErrorMessage,
    NodeUnhealthyMessage,
    SendTransactionPreflightFailureMessage,
    UnsupportedTransactionVersionMessage,
)
from solders.rpc.requests import GetProgramAccounts
from solders.rpc.responses import GetProgramAccountsWithContextResp
from solders.signature import Signature
from solders.sysvar import CLOCK as CLOCK_SYSVAR
from solders.transaction import VersionedTransaction
from solders.transaction_status import TransactionErrorFieldless
from solders.transaction_status import TransactionStatus as RpcStatus

from machpay.chain.accounts import (
    GLOBAL_BOND_LENGTH,
    AgentAccount,
    Batch,
    Channel,
    GatewayAccount,
    GlobalBond,
    VendorAccount,
    decode_account,
    is_unwritten,
)
from machpay.chain.errors import (
    ChainError,
    ConfirmationTimeout,
    DecodeError,
    RpcUnavailable,
    TransactionFailed,
    TransactionRejected,
)
from machpay.chain.lookup_tables import AUTHORITY_OFFSET, LOOKUP_TABLE_PROGRAM_ID, LookupTable
from machpay.chain.network import Network
from machpay.chain.rpc import RpcClient
from machpay.chain.tokens import token_amount
from machpay.chain.traces import Invocation, Recorded, recorded_events, trace_of
from machpay.chain.transactions import (
    Commitment,
    SignedTransaction,
    TxStatus,
    failure,
    priority_price,
    rejection,
    sign_transaction,
)

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
# A cluster answers at most this many statuses a call.
STATUSES_PER_CALL_MAX: Final = 256
SIGNATURES_PER_CALL_MAX: Final = 1_000
ACCOUNTS_PER_CALL_MAX: Final = 100
_ONE_SLOT_ATTEMPTS: Final = 6
# Clock: slot, epoch start, epoch, leader epoch (8 bytes each), then the time.
_CLOCK_TIME_OFFSET: Final = 32
# A cluster looks at most at this many accounts when asked for recent fees.
_FEE_ACCOUNTS_MAX: Final = 128
_POLL_SECONDS: Final = 0.2
# How long to wait before sending the same bytes again: a leader may have dropped them.
_RESEND_SECONDS: Final = 2.0
# How long to wait for a transaction before its outcome is called unknown.
_PATIENCE_SECONDS: Final = 60.0

_LEVELS: Final = {
    "processed": CommitmentLevel.Processed,
    "confirmed": CommitmentLevel.Confirmed,
    "finalized": CommitmentLevel.Finalized,
}
_NAMES: Final[dict[str, Commitment]] = {
    "Processed": "processed",
    "Confirmed": "confirmed",
    "Finalized": "finalized",
}

# Errors of the server and not about what was sent: it may have passed the transaction on before.
_WITHOUT_A_VERDICT: Final = (InternalErrorMessage, NodeUnhealthyMessage)

T = TypeVar("T")
A = TypeVar("A", GlobalBond, AgentAccount, VendorAccount, GatewayAccount, Channel, Batch)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Accounts of the program for one mint, as of one slot: all of them, or those that were asked for.

    `agents`, `gateways` and `vendors` are keyed by the owner's key, `channels` by the channel's address. `vault_atomic`
    is what the vault held at that slot, where it was read too.
    """

    slot: int
    bond: GlobalBond | None = None
    agents: dict[Pubkey, AgentAccount] = field(default_factory=dict)
    channels: dict[Pubkey, Channel] = field(default_factory=dict)
    gateways: dict[Pubkey, GatewayAccount] = field(default_factory=dict)
    vendors: dict[Pubkey, VendorAccount] = field(default_factory=dict)
    vault_atomic: int | None = None


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest block at some commitment."""

    slot: int
    block_height: int


@dataclass(frozen=True, slots=True)
class SignatureSeen:
    """One transaction in an address's history. `block_time` is unix seconds, where the server knows it."""

    signature: str
    slot: int
    block_time: int | None
    failed: bool


class ChainClient:
    """One cluster, and optionally one network on it.

    Use as an async context manager. `network` may be set later by code that has to ask for the genesis hash first;
    the methods that read the program's accounts need it.
    """

    def __init__(
        self,
        rpc_url: str,
        network: Network | None = None,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        priority_price_max: int = 0,
    ) -> None:
        """`priority_price_max` is the most that `sign` offers per compute unit, in micro-lamports, when recent blocks
        took that much; 0 offers nothing."""
        self.network = network
        self._priority_price_max = priority_price_max
        self._rpc = RpcClient(rpc_url, timeout_seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        await self._rpc.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rpc.close()

    # ---- the cluster

    async def genesis_hash(self) -> Hash:
        return (await _answer(self._rpc.get_genesis_hash())).value

    async def slot(self, commitment: Commitment = "confirmed") -> int:
        return (await _answer(self._rpc.get_slot(RpcCommitment(commitment)))).value

    async def block_height(self, commitment: Commitment = "finalized") -> int:
        return (await _answer(self._rpc.get_block_height(RpcCommitment(commitment)))).value

    async def tip(self, commitment: Commitment = "finalized") -> Tip:
        """Slot and block height of one moment, as one server knows them."""
        info = (await _answer(self._rpc.get_epoch_info(RpcCommitment(commitment)))).value
        return Tip(info.absolute_slot, info.block_height)

    async def unix_timestamp(self) -> int:
        """The time that programs see: what timelocks and claim delays are judged by."""
        account = await self.account(CLOCK_SYSVAR)
        if account is None:
            raise RpcUnavailable("the RPC server does not know the Clock sysvar")
        (now,) = struct.unpack_from("<q", bytes(account.data), _CLOCK_TIME_OFFSET)
        return int(now)

    async def latest_blockhash(self) -> tuple[Hash, int]:
        """A recent blockhash, and the last block height at which a transaction that names it can land."""
        latest = (await _answer(self._rpc.get_latest_blockhash(RpcCommitment("confirmed")))).value
        return latest.blockhash, latest.last_valid_block_height

    async def priority_price(self, accounts: Sequence[Pubkey], *, least: int = 0, most: int) -> int:
        """Micro-lamports per compute unit that get a transaction writing `accounts` into a block soon: from what
        recent blocks took, between `least` and `most`."""
        recent = await _answer(self._rpc.get_recent_prioritization_fees(accounts[:_FEE_ACCOUNTS_MAX]))
        return priority_price([each.prioritization_fee for each in recent.value], least=least, most=most)

    async def rent(self, length: int) -> int:
        """Lamports that keep an account of `length` bytes alive."""
        return (await _answer(self._rpc.get_minimum_balance_for_rent_exemption(length))).value

    async def airdrop(self, owner: Pubkey, lamports: int) -> str:
        """Ask a test cluster for lamports and wait for them. Returns the signature."""
        signature = str((await _answer(self._rpc.request_airdrop(owner, lamports))).value)
        await self.confirm(signature)
        return signature

    # ---- any account

    async def account(self, address: Pubkey, commitment: Commitment = "confirmed") -> SolanaAccount | None:
        return (await _answer(self._rpc.get_account_info(address, RpcCommitment(commitment)))).value

    async def exists(self, address: Pubkey, commitment: Commitment = "confirmed") -> bool:
        return await self.account(address, commitment) is not None

    async def lamports(self, address: Pubkey, commitment: Commitment = "confirmed") -> int:
        return (await _answer(self._rpc.get_balance(address, RpcCommitment(commitment)))).value

    async def token_balance(self, address: Pubkey, commitment: Commitment = "confirmed") -> int:
        """Atomic units in a token account; 0 if it does not exist. Raises `DecodeError` if it is something else."""
        account = await self.account(address, commitment)
        return token_amount(bytes(account.data)) if account is not None else 0

    async def token_balance_at(
        self, address: Pubkey, commitment: Commitment = "finalized"
    ) -> tuple[int, int]:
        """As `token_balance`, with the slot that it is as of."""
        answer = await _answer(self._rpc.get_account_info(address, RpcCommitment(commitment)))
        amount = 0 if answer.value is None else token_amount(bytes(answer.value.data))
        return amount, answer.context.slot

    async def lookup_table(self, address: Pubkey, commitment: Commitment = "finalized") -> LookupTable | None:
        """The address lookup table at `address`; None while there is none."""
        account = await self.account(address, commitment)
        if account is None or account.owner != LOOKUP_TABLE_PROGRAM_ID:
            return None
        return LookupTable.decode(address, bytes(account.data))

    async def lookup_tables_of(
        self, authority: Pubkey, commitment: Commitment = "finalized"
    ) -> list[LookupTable]:
        """Every address lookup table that `authority` may extend and close, by address. Servers that list no accounts
        of large programs refuse: `RpcUnavailable`."""
        call = self._rpc.get_program_accounts(
            LOOKUP_TABLE_PROGRAM_ID,
            RpcCommitment(commitment),
            encoding="base64",
            filters=[MemcmpOpts(offset=AUTHORITY_OFFSET, bytes=str(authority))],
        )
        found = [
            LookupTable.decode(each.pubkey, bytes(each.account.data)) for each in (await _answer(call)).value
        ]
        return sorted(found, key=lambda table: bytes(table.address))

    # ---- the program's accounts; None where nothing was created

    async def bond(self, commitment: Commitment = "confirmed") -> GlobalBond | None:
        return await self._decoded(GlobalBond, self._network.bond(), commitment)

    async def mints_of(self, program_id: Pubkey, commitment: Commitment = "confirmed") -> list[Pubkey]:
        """The tokens for which the program at `program_id` holds bonds, sorted; usually one."""
        call = self._rpc.get_program_accounts(
            program_id, RpcCommitment(commitment), encoding="base64", filters=[GLOBAL_BOND_LENGTH]
        )
        found = [bytes(each.account.data) for each in (await _answer(call)).value]
        accounts = [decode_account(data) for data in found if not is_unwritten(data)]
        return sorted((each.mint for each in accounts if isinstance(each, GlobalBond)), key=bytes)

    async def agent(self, agent: Pubkey, commitment: Commitment = "confirmed") -> AgentAccount | None:
        return await self._decoded(AgentAccount, self._network.agent_account(agent), commitment)

    async def vendor(self, authority: Pubkey, commitment: Commitment = "confirmed") -> VendorAccount | None:
        return await self._decoded(VendorAccount, self._network.vendor_account(authority), commitment)

    async def gateway(self, gateway: Pubkey, commitment: Commitment = "confirmed") -> GatewayAccount | None:
        return await self._decoded(GatewayAccount, self._network.gateway_account(gateway), commitment)

    async def channel(
        self, agent: Pubkey, gateway: Pubkey, commitment: Commitment = "confirmed"
    ) -> Channel | None:
        return await self._decoded(Channel, self._network.channel(agent, gateway), commitment)

    async def batch(self, sequence: int, commitment: Commitment = "confirmed") -> Batch | None:
        return await self._decoded(Batch, self._network.batch(sequence), commitment)

    async def program_accounts(self, commitment: Commitment = "finalized") -> Snapshot:
        """Everything of this network in one call, so that all of it is from one slot.

        Accounts of the program that belong to another mint are left out, and those it never wrote. Raises
        `DecodeError` for an account of a later layout: a mirror that skips what it cannot read would be wrong in
        silence.
        """
        network = self._network
        config = RpcAccountInfoConfig(encoding=UiAccountEncoding.Base64, commitment=_LEVELS[commitment])
        request = GetProgramAccounts(
            network.program_id, RpcProgramAccountsConfig(config, filters=None, with_context=True)
        )
        # solana-py's own method drops the context, and with it the slot.
        response = await _answer(self._rpc._provider.make_request(request, GetProgramAccountsWithContextResp))
        found = ((keyed.pubkey, bytes(keyed.account.data)) for keyed in response.value)
        return _snapshot(network, response.context.slot, found)

    async def accounts_at_one_slot(
        self, addresses: Sequence[Pubkey], *, least_slot: int = 0, commitment: Commitment = "finalized"
    ) -> Snapshot | None:
        """Those of the program's accounts at `addresses` that exist, and the vault, all as of one slot, `least_slot`
        or a later one.

        None if the server's answers kept being of different or earlier slots: ask again. More than a few hundred
        addresses take several calls, which have to fall into one slot. Raises `DecodeError` as `program_accounts`.
        """
        network = self._network
        addresses = [network.vault(), *addresses]
        parts = [
            addresses[start : start + ACCOUNTS_PER_CALL_MAX]
            for start in range(0, len(addresses), ACCOUNTS_PER_CALL_MAX)
        ]
        for attempt in range(_ONE_SLOT_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_POLL_SECONDS / 4)
            calls = (self._rpc.get_multiple_accounts(part, RpcCommitment(commitment)) for part in parts)
            answers = await asyncio.gather(*(_answer(call) for call in calls))
            slots = {answer.context.slot for answer in answers}
            if len(slots) == 1 and min(slots) >= least_slot:
                vault, *held = (each for answer in answers for each in answer.value)
                found = (
                    (address, bytes(account.data))
                    for address, account in zip(addresses[1:], held, strict=True)
                    if account is not None and account.owner == network.program_id
                )
                vault_atomic = 0 if vault is None else token_amount(bytes(vault.data))
                return replace(_snapshot(network, slots.pop(), found), vault_atomic=vault_atomic)
        return None

    # ---- transactions

    async def sign(
        self,
        instructions: Sequence[Instruction],
        payer: Keypair,
        signers: Sequence[Keypair] = (),
        *,
        lookup_tables: Sequence[LookupTable] = (),
    ) -> SignedTransaction:
        """Sign with a fresh blockhash. Nothing is sent."""
        if self._priority_price_max:
            written = {meta.pubkey for step in instructions for meta in step.accounts if meta.is_writable}
            price = await self.priority_price(list(written), most=self._priority_price_max)
            instructions = [set_compute_unit_price(price), *instructions] if price else instructions
        blockhash, last_valid_block_height = await self.latest_blockhash()
        return sign_transaction(
            instructions,
            payer=payer,
            signers=signers,
            blockhash=blockhash,
            last_valid_block_height=last_valid_block_height,
            lookup_tables=lookup_tables,
        )

    async def try_out(
        self, instructions: Sequence[Instruction], payer: Keypair, signers: Sequence[Keypair] = ()
    ) -> None:
        """Have the cluster run a transaction without sending it. Raises as `send` for one that would fail."""
        signed = await self.sign(instructions, payer, signers)
        transaction = VersionedTransaction.from_bytes(signed.raw)
        tried = (await _answer(self._rpc.simulate_transaction(transaction, sig_verify=True))).value
        if tried.err is not None:
            raise rejection(tried.err, tried.logs or ())

    async def send(self, raw: bytes) -> str:
        """Send signed bytes, after the cluster tried them. Returns the signature; sending again is harmless.

        Raises `TransactionRejected` or `TransactionFailed` (`ProgramError`) if it would fail: then it had no effect.
        With `RpcUnavailable`, also for an internal error of the server, the outcome is unknown.
        """
        options = TxOpts(skip_preflight=False, preflight_commitment=RpcCommitment("confirmed"))
        try:
            answer = await self._rpc.send_raw_transaction(raw, options)
        except RPCException as error:
            message = error.args[0] if error.args else None
            if isinstance(message, SendTransactionPreflightFailureMessage):
                if message.data.err == TransactionErrorFieldless.AlreadyProcessed:
                    return _signature_of(raw)
                raise rejection(message.data.err, message.data.logs or ()) from error
            if isinstance(message, _WITHOUT_A_VERDICT):
                raise RpcUnavailable(_describe(message)) from error
            raise TransactionRejected(_describe(message)) from error
        except (SolanaRpcException, OSError, ValueError) as error:
            raise RpcUnavailable(f"sending failed: {error}") from error
        return str(answer.value)

    async def status(
        self, signatures: Sequence[str], *, search_history: bool = True, least_slot: int = 0
    ) -> list[TxStatus | None]:
        """What the cluster knows of each signature, in this order; None is "not seen".

        Raises `RpcUnavailable` if the server that answers has not reached `least_slot`: one address may be several, and
        what one of them has not seen yet may be final at the next."""
        statuses: list[TxStatus | None] = []
        for start in range(0, len(signatures), STATUSES_PER_CALL_MAX):
            wanted = [
                Signature.from_string(text) for text in signatures[start : start + STATUSES_PER_CALL_MAX]
            ]
            answer = await _answer(self._rpc.get_signature_statuses(wanted, search_history))
            if answer.context.slot < least_slot:
                raise RpcUnavailable(
                    f"the server asked is at slot {answer.context.slot}, before {least_slot}"
                )
            statuses += [_status(found) for found in answer.value]
        return statuses

    async def signatures_of(
        self,
        address: Pubkey,
        *,
        before: str | None = None,
        limit: int = SIGNATURES_PER_CALL_MAX,
        commitment: Commitment = "finalized",
    ) -> list[SignatureSeen]:
        """Up to `limit` transactions that name `address`, the newest first; `before` continues below a signature."""
        call = self._rpc.get_signatures_for_address(
            address,
            before=None if before is None else Signature.from_string(before),
            limit=limit,
            commitment=RpcCommitment(commitment),
        )
        return [
            SignatureSeen(str(each.signature), each.slot, each.block_time, each.err is not None)
            for each in (await _answer(call)).value
        ]

    async def events(self, signature: str, commitment: Commitment = "confirmed") -> list[Recorded] | None:
        """What the program recorded in one transaction, in order; nothing if it failed, None if it is not known.

        Raises `DecodeError` for a server that keeps no inner instructions, a transaction of a later version, or an
        event of a later program.
        """
        trace = await self.trace(signature, commitment)
        return None if trace is None else recorded_events(self._network, trace)

    async def trace(
        self, signature: str, commitment: Commitment = "confirmed"
    ) -> list[list[Invocation]] | None:
        """What one transaction called; nothing if it failed, None if it is not known. Raises `DecodeError` for a server
        that keeps no inner instructions, or a transaction of a later version."""
        call = self._rpc.get_transaction(
            Signature.from_string(signature),
            encoding="base64",
            commitment=RpcCommitment(commitment),
            max_supported_transaction_version=0,
        )
        found = (await _answer(call)).value
        if found is None:
            return None
        meta = found.transaction.meta
        if meta is not None and meta.err is not None:
            return []
        return trace_of(found.transaction)

    async def confirm(
        self, signature: str, commitment: Commitment = "confirmed", timeout_seconds: float = 30.0
    ) -> TxStatus:
        """Wait until the transaction has reached `commitment` and succeeded.

        Raises `TransactionFailed` (`ProgramError`) if it reached it and failed, `ConfirmationTimeout` otherwise.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            (status,) = await self.status([signature])
            if status is not None and status.satisfies(commitment):
                if status.err is not None:
                    raise status.err
                return status
            if time.monotonic() >= deadline:
                raise _timeout(signature, commitment, timeout_seconds)
            await asyncio.sleep(_POLL_SECONDS)

    async def send_and_confirm(
        self,
        instructions: Sequence[Instruction],
        payer: Keypair,
        signers: Sequence[Keypair] = (),
        commitment: Commitment = "confirmed",
    ) -> str:
        """Sign, send and wait; the same bytes are sent again every two seconds. Returns the signature.

        Raises as `send` where the cluster refuses them at first or they can never land any more, `TransactionFailed`
        (`ProgramError`) if they landed and failed. With `ConfirmationTimeout` and `RpcUnavailable` the outcome is
        unknown; once the bytes were taken, a server that is away for a while is asked again until the time is up.
        """
        transaction = await self.sign(instructions, payer, signers)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        await self.send(transaction.raw)
        while True:
            left = deadline - time.monotonic()
            try:
                await self.confirm(transaction.signature, commitment, min(_RESEND_SECONDS, max(left, 0)))
                return transaction.signature
            except ConfirmationTimeout as error:
                unconfirmed: ChainError = error
            except RpcUnavailable as error:
                unconfirmed = error
                await asyncio.sleep(_POLL_SECONDS)
            if time.monotonic() >= deadline:
                raise _timeout(transaction.signature, commitment, _PATIENCE_SECONDS) from unconfirmed
            with suppress(RpcUnavailable):
                await self._send_again(transaction)

    async def _send_again(self, transaction: SignedTransaction) -> None:
        """Send bytes that were sent before. A refusal says nothing of the first time: it is raised only once they can
        have landed no more and did not."""
        try:
            await self.send(transaction.raw)
        except (TransactionRejected, TransactionFailed):
            # The tip first: what landed up to it is known to every server that has reached it.
            tip = await self.tip()
            (status,) = await self.status([transaction.signature], least_slot=tip.slot)
            if status is None and tip.block_height > transaction.last_valid_block_height:
                raise

    # ---- inside

    @property
    def _network(self) -> Network:
        if self.network is None:
            raise ValueError("this client was made without a network")
        return self.network

    async def _decoded(self, kind: type[A], address: Pubkey, commitment: Commitment) -> A | None:
        """The account at `address`; None if nothing was created there, lamports alone included."""
        account = await self.account(address, commitment)
        if account is None or account.owner != self._network.program_id:
            return None
        return kind.decode(bytes(account.data))


def _snapshot(network: Network, slot: int, found: Iterable[tuple[Pubkey, bytes]]) -> Snapshot:
    snapshot = Snapshot(slot)
    bond = None
    for address, data in found:
        if is_unwritten(data):
            continue
        account = decode_account(data)
        match account:
            case GlobalBond(mint=network.mint):
                bond = account
            case AgentAccount(mint=network.mint):
                snapshot.agents[account.agent] = account
            case Channel(mint=network.mint):
                snapshot.channels[address] = account
            case VendorAccount(mint=network.mint):
                snapshot.vendors[account.authority] = account
            case GatewayAccount():
                snapshot.gateways[account.gateway] = account
    return replace(snapshot, bond=bond)


async def _answer(call: Awaitable[T]) -> T:
    """Await a read. Everything that can go wrong with one means that there is no answer."""
    try:
        return await call
    except RPCException as error:
        message = error.args[0] if error.args else None
        if isinstance(message, UnsupportedTransactionVersionMessage):
            # Asking again does not help, and anybody may send one that names an account which is followed.
            raise DecodeError(_describe(message)) from error
        raise RpcUnavailable(_describe(message)) from error
    except (SolanaRpcException, OSError, ValueError) as error:
        raise RpcUnavailable(f"the RPC server gave no usable answer: {error}") from error


def _describe(message: object) -> str:
    """The sentence of an RPC error, whatever its class."""
    return str(getattr(message, "message", None) or message or "the RPC server answered with an error")


def _timeout(signature: str, commitment: Commitment, seconds: float) -> ConfirmationTimeout:
    return ConfirmationTimeout(f"{signature} is not {commitment} after {seconds:g} s; it may be later")


def _signature_of(raw: bytes) -> str:
    """The first signature of a serialised transaction: after its one-byte count."""
    return str(Signature.from_bytes(raw[1:65]))


def _status(found: RpcStatus | None) -> TxStatus | None:
    if found is None:
        return None
    # Old validators leave the status out for rooted transactions.
    name = str(found.confirmation_status).rsplit(".", 1)[-1] if found.confirmation_status else "Finalized"
    return TxStatus(_NAMES[name], failure(found.err) if found.err is not None else None, found.slot)
