"""The client's rule against the accept rule, in random order: n processes on one key, any interleaving.

Whatever happens, no process authorises more than the bound beyond what is served and on its way, the
gateway's invariant holds, and a process that keeps trying is served.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from machpay.client.channels import Channel
from machpay.client.errors import GatewayExposureError
from machpay.client.headroom import MAX_PRICES
from machpay.protocol.nonces import CLOCK_SKEW_S
from machpay.protocol.x402 import Correction
from tests.sdk.model import GATEWAY, NOW, Model, Sent, a_receipt, an_agent, sign

PRICES = (10, 25, 40)
MAX_IN_FLIGHT = 16


@dataclass
class Process:
    """One process that holds the agent's key."""

    channel: Channel = field(default_factory=an_agent)
    travelling: list[Sent] = field(default_factory=list)
    accepted: list[Sent] = field(default_factory=list)
    unheard: list[Sent] = field(default_factory=list)


class Network(RuleBasedStateMachine):
    """Processes sign, the network delivers in any order, the gateway serves or fails, answers get lost."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway = Model()
        self.processes: list[Process] = []
        self.now = float(NOW)

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.processes = [Process() for _ in range(count)]

    @rule(who=st.integers(0, 3), price=st.sampled_from(PRICES))
    def signs(self, who: int, price: int) -> None:
        process = self._process(who)
        if len(process.travelling) + len(process.accepted) >= MAX_IN_FLIGHT:
            return
        channel = process.channel
        before, unresolved = channel.signed, channel.unresolved
        try:
            sent = sign(channel, price, self.now)
        except GatewayExposureError:
            assert channel.signed == before
            return
        process.travelling.append(sent)
        bound = channel.served + unresolved + price + MAX_PRICES * max(PRICES)
        assert sent.intent.cumulative <= max(before, bound)

    @precondition(lambda self: any(process.travelling for process in self.processes))
    @rule(who=st.integers(0, 3), pick=st.integers(0, 15))
    def arrives(self, who: int, pick: int) -> None:
        process = self._process(who)
        if not process.travelling:
            return
        sent = process.travelling.pop(pick % len(process.travelling))
        price = sent.intent.amount
        if self.gateway.accept(sent, price):
            process.accepted.append(sent)
            return
        process.channel.too_low(sent.digest)
        assert process.channel.correct(self.gateway.correction(), self.gateway.receipt, 0)

    @precondition(lambda self: any(process.accepted for process in self.processes))
    @rule(
        who=st.integers(0, 3),
        pick=st.integers(0, 15),
        outcome=st.sampled_from(["served", "void", "part", "lost"]),
    )
    def finishes(self, who: int, pick: int, outcome: str) -> None:
        process = self._process(who)
        if not process.accepted:
            return
        sent = process.accepted.pop(pick % len(process.accepted))
        price = sent.intent.amount
        charged = {"served": price, "void": 0, "part": price // 2, "lost": price}[outcome]
        receipt = self.gateway.finish(sent, price, charged)
        if outcome == "lost":
            process.unheard.append(sent)
        else:
            process.channel.resolved(receipt)

    @rule(who=st.integers(0, 3))
    def restarts_without_state(self, who: int) -> None:
        process = self._process(who)
        # Requests on their way go on without the process; their answers reach nobody.
        for sent in process.travelling:
            if self.gateway.accept(sent, sent.intent.amount):
                process.accepted.append(sent)
        for sent in process.accepted:
            self.gateway.finish(sent, sent.intent.amount, sent.intent.amount)
        self.processes[self.processes.index(process)] = Process()

    @rule(who=st.integers(0, 3))
    def restarts_with_state(self, who: int) -> None:
        process = self._process(who)
        if process.travelling or process.accepted:
            return
        process.channel = an_agent(process.channel.totals)

    @rule()
    def time_passes(self) -> None:
        self.now += 60 + CLOCK_SKEW_S + 1
        for process in self.processes:
            # Past its deadline no gateway accepts a payment any more.
            for sent in process.travelling:
                process.channel.refused(sent.digest)
            process.travelling.clear()

    @invariant()
    def the_gateway_is_covered(self) -> None:
        assert self.gateway.served + self.gateway.reserved <= max(self.gateway.highest, 0)
        assert self.gateway.served == sum(self.gateway.charges.values())

    @invariant()
    def no_process_knows_more_than_is_true(self) -> None:
        for process in self.processes:
            assert process.channel.served <= process.channel.signed
            assert process.channel.signed <= max(
                [self.gateway.highest, *(s.intent.cumulative for p in self.processes for s in p.travelling)]
            ) or self._signed_but_dropped(process)

    def _signed_but_dropped(self, process: Process) -> bool:
        # A payment that expired on its way was signed and never seen by the gateway.
        return process.channel.signed <= process.channel.served + process.channel.unresolved + (
            MAX_PRICES + 2 * MAX_IN_FLIGHT
        ) * max(PRICES)

    def teardown(self) -> None:
        """Everything resolves; then every process that keeps trying is served."""
        for process in self.processes:
            for sent in process.travelling:
                process.channel.refused(sent.digest)
            for sent in process.accepted:
                receipt = self.gateway.finish(sent, sent.intent.amount, sent.intent.amount)
                process.channel.resolved(receipt)
        for process in self.processes:
            for _ in range(12):
                sent = sign(process.channel, 10, self.now)
                if self.gateway.accept(sent, 10):
                    process.channel.resolved(self.gateway.finish(sent, 10, 10))
                    break
                process.channel.too_low(sent.digest)
                assert process.channel.correct(self.gateway.correction(), self.gateway.receipt, 0)
            else:
                pytest.fail("a process that keeps trying is not served")

    def _process(self, who: int) -> Process:
        return self.processes[who % len(self.processes)]


Network.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestNetwork = Network.TestCase


lies = st.sampled_from(
    ["own voucher", "old voucher", "inflated receipt", "no voucher", "refuse", "swallow", "serve"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(lies, st.integers(0, 2**40)), min_size=1, max_size=300))
def test_no_sequence_of_lies_gets_more_than_the_bound_beyond_what_was_charged(moves):
    """One process against a gateway that may say anything. What it can claim on chain is the highest
    cumulative; what it has given is what its receipts charge. The difference never exceeds 64 prices and the
    payments on their way."""
    channel, price = an_agent(), 10
    charged = 0
    held: list[Sent] = []
    swallowed = 0
    highest = 0
    for move, number in moves:
        try:
            sent = sign(channel, price)
        except GatewayExposureError:
            break
        held.append(sent)
        highest = max(highest, sent.intent.cumulative)
        shown = sent if move != "old voucher" else held[number % len(held)]
        voucher = shown.intent.voucher(shown.signature)
        lie = a_receipt(b"\x05" * 32, charged=1, served_total=voucher.cumulative + number)
        if move in ("own voucher", "old voucher"):
            channel.too_low(sent.digest)
            channel.correct(Correction(number % (voucher.cumulative + 1), voucher), lie, 0)
        elif move == "no voucher":
            channel.too_low(sent.digest)
            channel.correct(Correction(number + 1, None), lie, 0)
        elif move == "refuse":
            channel.refused(sent.digest)
        elif move == "swallow":
            swallowed += price
        else:
            charged += price
            inflated = number if move == "inflated receipt" else 0
            channel.resolved(
                a_receipt(sent.digest, charged=price, served_total=charged + inflated, key=GATEWAY)
            )
        assert highest <= charged + swallowed + (MAX_PRICES + 1) * price
    assert channel.signed == highest
