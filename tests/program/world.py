"""A small world on LiteSVM: the real bytecode, a mint, a bond, and people who use them. One instance per test.

Builders come from `machpay.chain`; this module only signs, sends and reads. A refused transaction is returned, not
raised, so that a test says what it expects.
"""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from solders.account import Account
from solders.hash import Hash
from solders.instruction import CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM_ID
from solders.token.state import Mint, TokenAccount, TokenAccountState
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

from machpay.chain import instructions as build
from machpay.chain.accounts import AgentAccount, Channel, GatewayAccount, GlobalBond, VendorAccount
from machpay.chain.errors import PROGRAM_ERRORS
from machpay.chain.network import Network
from machpay.chain.traces import INSTRUCTION_TAG, Invocation
from machpay.protocol.intents import Voucher, voucher_message

ROOT: Final = Path(__file__).resolve().parents[2]
ARTIFACT: Final = ROOT / "contracts" / "artifacts" / "machpay.so"
USDC: Final = 1_000_000
NOW: Final = 1_795_000_000
CONTEXT: Final = bytes(range(16))
LAMPORTS: Final = 10**10

_CODES: Final = {error.name: code for code, error in PROGRAM_ERRORS.items()}


@dataclass(frozen=True)
class Refused:
    """A transaction that had no effect. `code` is the program's custom error, None for a runtime error."""

    code: int | None
    text: str
    logs: list[str]


@dataclass(frozen=True)
class Done:
    """A transaction that succeeded. `trace` is what it called, `events` the data of its events without the tag."""

    compute_units: int
    logs: list[str]
    events: list[bytes]
    trace: list[list[Invocation]]


def refused(outcome: "Done | Refused", name: str) -> None:
    """Assert that the program refused with the error of this name."""
    assert isinstance(outcome, Refused), f"expected {name}, but it succeeded"
    assert outcome.code == _CODES[name], (
        f"expected {name} ({_CODES[name]:#x}), got {outcome.text}: {outcome.logs}"
    )


def done(outcome: "Done | Refused") -> Done:
    """Assert success."""
    assert isinstance(outcome, Done), f"{outcome.text} {outcome.logs}"
    return outcome


def _trace(message: Message, meta: TransactionMetadata) -> list[list[Invocation]]:
    """What each of the transaction's instructions called, itself first."""
    keys = list(message.account_keys)

    def invocation(compiled: CompiledInstruction, stack_height: int | None) -> Invocation:
        assert stack_height is not None
        accounts = tuple(keys[index] for index in bytes(compiled.accounts))
        return Invocation(keys[compiled.program_id_index], accounts, bytes(compiled.data), stack_height)

    trace = [[invocation(compiled, 1)] for compiled in message.instructions]
    for calls, group in zip(trace, meta.inner_instructions(), strict=True):
        calls += [invocation(inner.instruction(), inner.stack_height()) for inner in group]
    return trace


@dataclass(frozen=True)
class Vendor:
    authority: Keypair
    gateway: Keypair
    payout: Pubkey

    @property
    def key(self) -> Pubkey:
        return self.authority.pubkey()


class World:
    """LiteSVM with the program deployed and one mint; `bond()` initialises, the rest is added as tests need it."""

    def __init__(self, network: Network | None = None, *, mainnet_features: bool = True) -> None:
        self.svm = LiteSVM()
        if mainnet_features:
            self.svm = self.svm.with_mainnet_features()
        self.admin, self.relayer, self.treasury = Keypair(), Keypair(), Keypair()
        self.upgrade_authority, self.payer, self.mint_authority = Keypair(), Keypair(), Keypair()
        self.network = network or Network(
            Keypair().pubkey(), Keypair().pubkey(), Hash(hashlib.sha256(b"genesis").digest())
        )
        self.svm.add_program(self.network.program_id, ARTIFACT.read_bytes())
        self._name_upgrade_authority(self.network.program_id)
        self.new_mint(at=self.network.mint)
        clock = self.svm.get_clock()
        clock.unix_timestamp = NOW
        self.svm.set_clock(clock)
        for key in (self.relayer, self.payer, self.upgrade_authority, self.admin):
            self.svm.airdrop(key.pubkey(), LAMPORTS)

    def _name_upgrade_authority(self, program_id: Pubkey) -> None:
        """LiteSVM deploys without an authority; the loader's ProgramData has it at bytes 12..45."""
        self.program_data, _ = Pubkey.find_program_address([bytes(program_id)], build.UPGRADEABLE_LOADER_ID)
        account = self.svm.get_account(self.program_data)
        assert account is not None
        data = bytearray(account.data)
        data[12:45] = b"\x01" + bytes(self.upgrade_authority.pubkey())
        self.svm.set_account(self.program_data, Account(account.lamports, bytes(data), account.owner))

    # ---- sending

    def send(self, *ixs: Instruction, signers: tuple[Keypair, ...] = ()) -> Done | Refused:
        """One transaction, paid by `payer`, or by the first signer if it is the relayer."""
        self.svm.expire_blockhash()
        payer = signers[0] if signers else self.payer
        keys = [payer, *(key for key in signers if key != payer)]
        message = Message.new_with_blockhash(list(ixs), payer.pubkey(), self.svm.latest_blockhash())
        result = self.svm.send_transaction(Transaction(keys, message, self.svm.latest_blockhash()))
        if isinstance(result, FailedTransactionMetadata):
            error = result.err()
            code = getattr(getattr(error, "err", None), "code", None)
            return Refused(code, str(error), result.meta().logs())
        assert isinstance(result, TransactionMetadata)
        trace = _trace(message, result)
        data = [call.data for calls in trace for call in calls]
        events = [item[len(INSTRUCTION_TAG) :] for item in data if item.startswith(INSTRUCTION_TAG)]
        return Done(result.compute_units_consumed(), result.logs(), events, trace)

    # ---- setting up

    def new_mint(self, *, program: Pubkey = TOKEN_PROGRAM_ID, at: Pubkey | None = None) -> Pubkey:
        key = at or Keypair().pubkey()
        data = bytes(Mint(self.mint_authority.pubkey(), 2**63, 6, is_initialized=True, freeze_authority=None))
        self.svm.set_account(key, Account(LAMPORTS, data, program))
        return key

    def token_account(
        self,
        owner: Pubkey,
        amount: int = 0,
        *,
        mint: Pubkey | None = None,
        state: TokenAccountState = TokenAccountState.Initialized,
        program: Pubkey = TOKEN_PROGRAM_ID,
        at: Pubkey | None = None,
    ) -> Pubkey:
        key = at or Keypair().pubkey()
        data = TokenAccount(mint or self.network.mint, owner, amount, None, state, None, 0, None)
        self.svm.set_account(key, Account(LAMPORTS, bytes(data), program))
        return key

    def config(self, **changes: object) -> build.BondConfig:
        config = build.BondConfig(
            admin=self.admin.pubkey(),
            relayer=self.relayer.pubkey(),
            treasury=self.treasury.pubkey(),
            min_bond=USDC,
        )
        return replace(config, **changes)  # type: ignore[arg-type]

    def initialize_bond(self, **changes: object) -> Done | Refused:
        ix = build.initialize_bond(
            self.network,
            payer=self.payer.pubkey(),
            upgrade_authority=self.upgrade_authority.pubkey(),
            config=self.config(**changes),
        )
        return self.send(ix, signers=(self.payer, self.upgrade_authority))

    def agent(self, bond: int = 0) -> Keypair:
        """An agent with lamports and, if `bond` is given, a deposit of it."""
        key = Keypair()
        self.svm.airdrop(key.pubkey(), LAMPORTS)
        if bond:
            done(self.deposit(key, bond))
        return key

    def deposit(self, agent: Keypair, amount: int, **options: object) -> Done | Refused:
        """A deposit from a fresh token account of the agent's that holds exactly `amount`."""
        source = self.token_account(agent.pubkey(), amount)
        arguments = {"owner": agent.pubkey(), **options}
        ix = build.deposit_bond(
            self.network,
            agent=agent.pubkey(),
            source=source,
            amount=amount,
            **arguments,  # type: ignore[arg-type]
        )
        return self.send(ix, signers=(agent,))

    def vendor(self) -> Vendor:
        """A registered vendor with one registered gateway and an empty payout account."""
        authority, gateway = Keypair(), Keypair()
        payout = self.token_account(authority.pubkey())
        done(self.register_vendor(authority, payout))
        done(self.register_gateway(authority, gateway))
        return Vendor(authority, gateway, payout)

    def register_vendor(
        self, authority: Keypair, payout: Pubkey, uri: str = "https://v.example"
    ) -> Done | Refused:
        ix = build.register_vendor(
            self.network,
            authority=authority.pubkey(),
            payout=payout,
            price=1_000,
            metadata_uri=uri,
            payer=self.payer.pubkey(),
        )
        return self.send(ix, signers=(self.payer, authority))

    def register_gateway(self, authority: Keypair, gateway: Keypair) -> Done | Refused:
        ix = build.register_gateway(
            self.network, gateway=gateway.pubkey(), authority=authority.pubkey(), payer=self.payer.pubkey()
        )
        return self.send(ix, signers=(self.payer, gateway, authority))

    # ---- settling

    def voucher(self, agent: Keypair, gateway: Pubkey, cumulative: int, context: bytes = CONTEXT) -> Voucher:
        channel = self.network.channel(agent.pubkey(), gateway)
        message = voucher_message(channel, cumulative, context)
        return Voucher(channel, cumulative, context, bytes(agent.sign_message(message)))

    def item(
        self,
        agent: Keypair,
        gateway: Keypair,
        cumulative: int,
        *,
        up_to: int | None = None,
        create: bool = True,
    ) -> build.ChannelSettlement:
        return build.ChannelSettlement(
            agent=agent.pubkey(),
            gateway=gateway.pubkey(),
            voucher=self.voucher(agent, gateway.pubkey(), cumulative),
            up_to=cumulative if up_to is None else up_to,
            create=create,
        )

    def settle_ixs(self, vendor: Vendor, *items: build.ChannelSettlement) -> list[Instruction]:
        return build.settle_cumulative(
            self.network,
            relayer=self.relayer.pubkey(),
            vendor=vendor.key,
            payout=vendor.payout,
            channels=items,
        )

    def settle(self, vendor: Vendor, *items: build.ChannelSettlement) -> Done | Refused:
        return self.send(*self.settle_ixs(vendor, *items), signers=(self.relayer,))

    # ---- time and withdrawals

    @property
    def now(self) -> int:
        return self.svm.get_clock().unix_timestamp

    def wait(self, seconds: int) -> None:
        """Move the cluster's clock."""
        clock = self.svm.get_clock()
        clock.unix_timestamp += seconds
        self.svm.set_clock(clock)

    def request_withdrawal(self, agent: Keypair, amount: int, *, by: Keypair | None = None) -> Done | Refused:
        authority = by or agent
        ix = build.request_withdrawal(
            self.network, agent=agent.pubkey(), amount=amount, authority=authority.pubkey()
        )
        return self.send(ix, signers=(self.payer, authority))

    def cancel_withdrawal(self, agent: Keypair, *, by: Keypair) -> Done | Refused:
        ix = build.cancel_withdrawal(self.network, agent=agent.pubkey(), owner=by.pubkey())
        return self.send(ix, signers=(self.payer, by))

    def withdraw(self, agent: Keypair, destination: Pubkey, *, by: Keypair | None = None) -> Done | Refused:
        authority = by or agent
        ix = build.withdraw_bond(
            self.network, agent=agent.pubkey(), destination=destination, authority=authority.pubkey()
        )
        return self.send(ix, signers=(self.payer, authority))

    # ---- reading

    def data(self, address: Pubkey) -> bytes | None:
        account = self.svm.get_account(address)
        return bytes(account.data) if account is not None and account.data else None

    def global_bond(self) -> GlobalBond:
        data = self.data(self.network.bond())
        assert data is not None
        return GlobalBond.decode(data)

    def agent_account(self, agent: Keypair) -> AgentAccount | None:
        data = self.data(self.network.agent_account(agent.pubkey()))
        return AgentAccount.decode(data) if data else None

    def bond_of(self, agent: Keypair) -> int:
        account = self.agent_account(agent)
        return account.bond if account else 0

    def vendor_account(self, authority: Keypair) -> VendorAccount | None:
        data = self.data(self.network.vendor_account(authority.pubkey()))
        return VendorAccount.decode(data) if data else None

    def gateway_account(self, gateway: Keypair) -> GatewayAccount | None:
        data = self.data(self.network.gateway_account(gateway.pubkey()))
        return GatewayAccount.decode(data) if data else None

    def channel(self, agent: Keypair, gateway: Keypair) -> Channel | None:
        data = self.data(self.network.channel(agent.pubkey(), gateway.pubkey()))
        return Channel.decode(data) if data else None

    def tokens(self, address: Pubkey) -> int:
        data = self.data(address)
        return struct.unpack_from("<Q", data, 64)[0] if data else 0

    def vault(self) -> int:
        return self.tokens(self.network.vault())

    def state(self) -> dict[Pubkey, bytes]:
        """Every account that holds money or rights: the program's own and all token accounts."""
        found = {}
        for owner in (self.network.program_id, TOKEN_PROGRAM_ID):
            for address, account in self.svm.get_program_accounts(owner):
                found[address] = bytes(account.data)
        return found

    @contextmanager
    def nothing_moves(self) -> Iterator[None]:
        """Assert that no account of the program and no token account changes inside."""
        before = self.state()
        yield
        assert self.state() == before

    def patch(self, address: Pubkey, offset: int, value: bytes) -> None:
        """Write bytes into an account, for states that no instruction of today can reach."""
        account = self.svm.get_account(address)
        assert account is not None
        data = bytearray(account.data)
        data[offset : offset + len(value)] = value
        self.svm.set_account(address, Account(account.lamports, bytes(data), account.owner))
