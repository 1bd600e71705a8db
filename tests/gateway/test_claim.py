"""`machpay-gateway claim` as a vendor runs it, over a log of the real gateway code and a bond on the local chain."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from solders.hash import Hash

from devnet.offers import LEXICON, OFFERS
from machpay.chain.instructions import SignedIntent, register_gateway, revoke_gateway, slash_equivocation
from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay_gateway.book import Book
from machpay_gateway.claim.plan import Position, Proof, Wishes, next_step
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.records import Identity
from machpay_gateway.payments import Payments
from tests.gateway.factories import configuration, make_attempt, make_intent, make_settings
from tests.support.chain import LocalChain, local_chain

__all__ = ["local_chain"]

LAMPORTS_PER_SOL = 1_000_000_000
BOND = 5_000_000


@dataclass
class Shop:
    """One gateway of the vendor, registered for this test, and the folder it runs in."""

    chain: LocalChain
    folder: Path
    key: SigningKey = field(default_factory=SigningKey.generate)

    def __post_init__(self) -> None:
        admin, vendor = self.chain.keys.get("admin").keypair(), self.chain.keys.get("vendor-lexicon")
        step = register_gateway(
            self.chain.network, gateway=self.key.public, authority=vendor.public, payer=admin.pubkey()
        )
        self.chain.call(
            lambda chain: chain.send_and_confirm([step], admin, [vendor.keypair(), self.key.keypair()])
        )
        self.configure()

    def configure(self, network: Network | None = None) -> None:
        text = configuration(
            self.folder,
            key=self.key,
            net=network or self.chain.network,
            vendor=self.chain.vendor(LEXICON),
            rpc_url=self.chain.rpc_url,
        )
        (self.folder / "gateway.toml").write_text(text)

    def fund(self) -> None:
        self.chain.call(lambda chain: chain.airdrop(self.key.public, LAMPORTS_PER_SOL))

    def write(self, *payments: tuple[SigningKey, int, int], while_open: Any = lambda: None) -> None:
        """Take (agent, signed, charged) payments with the gateway's own code; `while_open` runs before it stops."""
        asyncio.run(self._write(payments, while_open))

    async def _write(self, payments: tuple[tuple[SigningKey, int, int], ...], while_open: Any) -> None:
        network = self.chain.network
        settings = make_settings(
            self.folder, self.key, net=network, vendor=self.chain.vendor(LEXICON), rpc_url=self.chain.rpc_url
        )
        book = Book(network, self.key.public)
        identity = Identity(self.key.public, network.program_id, network.mint, bytes(network.domain))
        journal = Journal(settings.data_dir / "log", book, identity, segment_bytes=1024 * 1024)
        gateway = Payments(settings, book, journal)
        try:
            await gateway.start()
            for agent, amount, charged in payments:
                ticket = gateway.accept(
                    make_attempt(agent, self.key.public, self._intent(book, agent, amount)), amount
                )
                gateway.resolve(ticket, 200 if charged else 500, charged, final=True)
                gateway.sent(ticket)
            await journal.durable()
            await asyncio.to_thread(while_open)
        finally:
            await journal.close()

    def _intent(self, book: Book, agent: SigningKey, amount: int) -> PaymentIntent:
        cumulative = book.channel(agent.public).highest + amount
        return make_intent(
            agent, self.key.public, cumulative=cumulative, amount=amount, net=self.chain.network
        )

    # ---- the command

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "machpay_gateway",
            "claim",
            "--config",
            str(self.folder / "gateway.toml"),
        ]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=120, check=False
        )

    def claim(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """What `claim --json` prints, after its exit code was as expected."""
        ran = self.run("--json", *arguments)
        assert ran.returncode == code, ran.stderr + ran.stdout
        result: dict[str, Any] = json.loads(ran.stdout)
        return result

    def balance(self) -> int:
        return self.chain.vendor_balance(LEXICON, "confirmed")

    def on_chain(self, agent: SigningKey) -> tuple[int, int]:
        """(settled, pending claim) of the agent's channel."""
        channel = self.chain.call(lambda chain: chain.channel(agent.public, self.key.public))
        return (0, 0) if channel is None else (channel.settled, channel.claim_cumulative)

    def pass_claim_delay(self) -> None:
        bond = self.chain.call(lambda chain: chain.bond())
        assert bond is not None
        with self.chain.control() as control:
            control.move_clock(bond.claim_delay + 1)


@pytest.fixture
def shop(local_chain: LocalChain, tmp_path: Path) -> Shop:
    return Shop(local_chain, tmp_path)


@pytest.fixture
def agent(local_chain: LocalChain) -> SigningKey:
    return local_chain.new_agent(bond_atomic=BOND)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Every file in `folder` is the same afterwards."""

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before = content()
    yield
    assert content() == before


def slash(chain: LocalChain, agent: SigningKey) -> None:
    """Prove that the agent signed one nonce for both vendors' gateways."""
    nonce, halves = new_nonce(), []
    for gateway in map(chain.gateway, OFFERS):
        intent = make_intent(agent, gateway.public, nonce=nonce, net=chain.network)
        halves.append(SignedIntent(gateway.public, intent, intent.sign(agent)))
    reporter, admin = SigningKey.generate(), chain.keys.get("admin").keypair()
    proof = slash_equivocation(
        chain.network, reporter=reporter.public, agent=agent.public, first=halves[0], second=halves[1]
    )
    chain.call(lambda client: client.send_and_confirm(proof, admin, [reporter.keypair()]))


def steps(row: dict[str, Any]) -> list[str]:
    return [sent["step"] for sent in row["sent"]]


def test_what_agents_signed_is_claimed_and_after_the_delay_paid(shop: Shop, agent: SigningKey) -> None:
    shop.fund()
    shop.write((agent, 3_000, 3_000), (agent, 2_000, 2_000), (agent, 1_000, 0))
    start = shop.balance()

    (row,) = shop.claim()["channels"]
    assert steps(row) == ["claim"]
    assert (row["served_atomic"], row["signed_atomic"], row["settled_atomic"]) == (5_000, 6_000, 0)
    assert (row["pending_atomic"], shop.on_chain(agent)) == (6_000, (0, 6_000))

    # Too early: nothing is sent, and the claim keeps its time.
    (early,) = shop.claim("--execute")["channels"]
    assert (steps(early), early["unlocks_at"]) == ([], row["unlocks_at"])
    assert early["note"] == "pending: claiming again would restart the delay"
    assert (shop.balance(), shop.on_chain(agent)) == (start, (0, 6_000))

    shop.pass_claim_delay()
    (waiting,) = shop.claim()["channels"]
    assert (steps(waiting), waiting["note"]) == ([], "unlocked: run with --execute")
    (paid,) = shop.claim("--execute")["channels"]
    assert (steps(paid), paid["paid_atomic"], paid["claimable_atomic"]) == (["execute"], 6_000, 0)
    assert (shop.balance(), shop.on_chain(agent)) == (start + 6_000, (6_000, 0))

    (again,) = shop.claim("--execute")["channels"]
    assert (steps(again), again["note"]) == ([], "all of it is settled")
    assert (shop.balance(), shop.on_chain(agent)) == (start + 6_000, (6_000, 0))


def test_a_higher_voucher_waits_for_the_pending_claim_unless_it_may_restart_the_delay(
    shop: Shop, local_chain: LocalChain
) -> None:
    patient, eager = local_chain.new_agents(2, bond_atomic=BOND)
    shop.fund()
    shop.write((patient, 1_000, 1_000), (eager, 1_000, 1_000))
    assert [steps(row) for row in shop.claim()["channels"]] == [["claim"], ["claim"]]
    shop.write((patient, 500, 500), (eager, 500, 500))

    kept = shop.claim()["channels"]
    assert [(steps(row), row["pending_atomic"]) for row in kept] == [([], 1_000), ([], 1_000)]
    assert kept[0]["note"].startswith("pending: 500 more can be claimed after it")
    (replaced,) = shop.claim("--replace", "--agent", eager.pubkey)["channels"]
    assert (steps(replaced), replaced["pending_atomic"]) == (["claim"], 1_500)

    start = shop.balance()
    shop.pass_claim_delay()
    rows = {row["agent"]: row for row in shop.claim("--execute")["channels"]}
    assert steps(rows[patient.pubkey]) == ["execute", "claim"]
    assert steps(rows[eager.pubkey]) == ["execute"]
    assert (shop.on_chain(patient), shop.on_chain(eager)) == ((1_000, 1_500), (1_500, 0))
    assert shop.balance() == start + 2_500


def test_a_dry_run_and_channels_below_the_minimum_move_nothing(shop: Shop, agent: SigningKey) -> None:
    shop.fund()
    shop.write((agent, 3_000, 3_000))
    result = shop.claim("--dry-run")
    assert [(row["planned"], row["sent"]) for row in result["channels"]] == [("claim", [])]
    assert result["lamports_needed"] > 10_000
    (small,) = shop.claim("--minimum", "3001")["channels"]
    assert small["note"] == f"below the minimum of 3001 (the bond holds {BOND})"
    assert shop.on_chain(agent) == (0, 0)
    text = shop.run("--dry-run").stdout
    assert text.split()[:6] == ["agent", "served", "signed", "settled", "claimable", "pending"]
    assert "would claim" in text
    assert shop.on_chain(agent) == (0, 0)


def test_the_log_of_a_running_gateway_is_read_and_left_as_it_is(shop: Shop, agent: SigningKey) -> None:
    seen = []

    def look() -> None:
        with unchanged(shop.folder / "data" / "log"):
            seen.extend(shop.claim("--dry-run")["channels"])

    shop.fund()
    shop.write((agent, 3_000, 3_000), while_open=look)
    assert [row["signed_atomic"] for row in seen] == [3_000]
    # A torn write is left out, and left for the gateway to cut.
    newest = max((shop.folder / "data" / "log").glob("*.log"))
    newest.write_bytes(newest.read_bytes() + b"\x10\x00\x00")
    look()
    assert [row["signed_atomic"] for row in seen] == [3_000, 3_000]


def test_a_fee_payer_without_sol_is_told_what_it_needs_and_another_may_pay(
    shop: Shop, local_chain: LocalChain, agent: SigningKey
) -> None:
    shop.write((agent, 3_000, 3_000))
    refused = shop.run()
    assert refused.returncode == 3
    assert f"fee payer {shop.key.pubkey} has 0 lamports and needs" in refused.stderr
    told = json.loads(shop.run("--json").stderr.splitlines()[-1])
    assert (told["error"], told["detail"]) == (
        "TooLittleSol",
        refused.stderr.strip().removeprefix("machpay-gateway: "),
    )
    assert shop.on_chain(agent) == (0, 0)
    result = shop.claim("--fee-payer", str(local_chain.keys.path("admin")))
    assert result["fee_payer"] == local_chain.keys.get("admin").pubkey
    assert shop.on_chain(agent) == (0, 3_000)


def test_after_a_revocation_only_the_vendors_key_claims(
    shop: Shop, local_chain: LocalChain, agent: SigningKey
) -> None:
    shop.fund()
    shop.write((agent, 3_000, 3_000))
    vendor, admin = local_chain.keys.get("vendor-lexicon"), local_chain.keys.get("admin").keypair()
    revoke = revoke_gateway(local_chain.network, gateway=shop.key.public, authority=vendor.public)
    local_chain.call(lambda chain: chain.send_and_confirm([revoke], admin, [vendor.keypair()]))

    (row,) = shop.claim(code=3)["channels"]
    assert (steps(row), "give --vendor-keypair" in row["failure"]) == ([], True)
    stranger = shop.run("--vendor-keypair", str(local_chain.keys.path("relayer")))
    assert (stranger.returncode, "the vendor is" in stranger.stderr) == (2, True)
    assert shop.on_chain(agent) == (0, 0)

    keys = ("--vendor-keypair", str(local_chain.keys.path("vendor-lexicon")))
    (claimed,) = shop.claim(*keys, "--fee-payer", str(local_chain.keys.path("admin")))["channels"]
    assert (steps(claimed), shop.on_chain(agent)) == (["claim"], (0, 3_000))
    # Executing needs nobody's signature, so the gateway's own key may pay for it.
    start = shop.balance()
    shop.pass_claim_delay()
    (paid,) = shop.claim("--execute")["channels"]
    assert (steps(paid), shop.balance()) == (["execute"], start + 3_000)


def test_a_bond_that_covers_only_a_part_pays_it_and_leaves_the_rest_open(
    shop: Shop, local_chain: LocalChain, agent: SigningKey
) -> None:
    shop.fund()
    shop.write((agent, BOND + 700, BOND))
    start = shop.balance()
    assert f"the bond holds only {BOND}" in shop.run("--dry-run").stdout
    assert steps(shop.claim()["channels"][0]) == ["claim"]
    shop.pass_claim_delay()
    (row,) = shop.claim("--execute")["channels"]
    assert (row["paid_atomic"], row["pending_atomic"], shop.balance()) == (BOND, BOND + 700, start + BOND)
    (empty,) = shop.claim("--execute")["channels"]
    assert (steps(empty), "the bond is empty" in empty["note"]) == ([], True)
    local_chain.top_up(agent, 1_000)
    (rest,) = shop.claim("--execute")["channels"]
    assert (rest["paid_atomic"], shop.on_chain(agent)) == (700, (BOND + 700, 0))
    assert shop.balance() == start + BOND + 700


def test_a_slashed_agents_claim_waits_for_the_end_of_the_slashing_window(
    shop: Shop, local_chain: LocalChain, agent: SigningKey
) -> None:
    shop.fund()
    shop.write((agent, BOND, BOND))
    shop.claim()
    slash(local_chain, agent)
    account = local_chain.call(lambda chain: chain.agent(agent.public))
    assert account is not None
    shop.pass_claim_delay()
    (waiting,) = shop.claim("--execute")["channels"]
    assert (steps(waiting), waiting["unlocks_at"]) == ([], account.window_end)

    start = shop.balance()
    with local_chain.control() as control:
        control.move_clock(account.window_end - control.status()["unix_timestamp"] + 1)
    (row,) = shop.claim("--execute")["channels"]
    assert (steps(row), row["paid_atomic"]) == (["execute"], BOND - account.reporter_set_aside)
    assert shop.balance() == start + BOND - account.reporter_set_aside


def test_many_channels_are_claimed_side_by_side_with_progress_on_stderr(
    shop: Shop, local_chain: LocalChain
) -> None:
    agents = local_chain.new_agents(21, bond_atomic=BOND)
    shop.fund()
    shop.write(*((agent, 1_000 + number, 0) for number, agent in enumerate(agents)))
    ran = shop.run("--json")
    assert ran.returncode == 0, ran.stderr
    assert "done 20 of 21 channels" in ran.stderr
    rows = json.loads(ran.stdout)["channels"]
    assert [row["pending_atomic"] for row in rows] == list(range(1_020, 999, -1))
    (first,) = shop.claim("--agent", agents[7].pubkey)["channels"]
    assert (first["agent"], first["pending_atomic"], first["sent"]) == (agents[7].pubkey, 1_007, [])


def test_a_send_of_unknown_outcome_is_not_repeated_when_it_landed(shop: Shop, agent: SigningKey) -> None:
    shop.fund()
    shop.write((agent, 3_000, 3_000))
    with shop.chain.control() as control:
        # Longer than its client waits for an answer.
        control.slow_calls("sendTransaction", seconds=12)
        (row,) = shop.claim(code=1)["channels"]
    assert "outcome unknown" in row["failure"]
    assert steps(row) == []
    # It landed all the same, and the clock going on would show a second claim by its later time.
    shop.chain.wait_until_final()
    first = shop.chain.call(lambda chain: chain.channel(agent.public, shop.key.public))
    assert first is not None
    assert first.claim_cumulative == 3_000
    with shop.chain.control() as control:
        control.move_clock(10)
    (again,) = shop.claim("--replace")["channels"]
    assert (steps(again), again["pending_atomic"], again["unlocks_at"]) == ([], 3_000, first.claim_unlock)


def test_another_networks_log_no_log_and_no_vouchers_are_told_apart(shop: Shop, agent: SigningKey) -> None:
    missing = shop.run()
    assert (missing.returncode, "there is no log in" in missing.stderr) == (2, True)
    shop.write()
    nothing = shop.run()
    assert (nothing.returncode, nothing.stdout) == (0, "no vouchers in the log: there is nothing to claim\n")
    assert shop.claim() == {"channels": []}

    shop.write((agent, 3_000, 3_000))
    network = shop.chain.network
    shop.configure(Network(network.program_id, network.mint, Hash(b"x" * 32)))
    other = shop.run()
    assert (other.returncode, other.stdout) == (2, "")
    assert "belongs to gateway" in other.stderr
    assert shop.on_chain(agent) == (0, 0)


def test_a_cluster_that_is_down_is_exit_code_1(shop: Shop, agent: SigningKey) -> None:
    shop.write((agent, 3_000, 3_000))
    config = shop.folder / "gateway.toml"
    config.write_text(config.read_text().replace(shop.chain.rpc_url, "http://127.0.0.1:1"))
    ran = shop.run()
    assert (ran.returncode, "the chain could not be asked" in ran.stderr) == (1, True)


def test_a_claim_unlocks_at_its_time_and_not_a_second_before() -> None:
    key = SigningKey(b"a" * 32)
    position = Position(Proof(key.public, None, 0), True, 0, 0, pending=10, unlocks_at=100, cover=10)
    wishes = Wishes(minimum=1, execute=True, replace=False)
    assert next_step(position, wishes, 99)[0] is None
    assert next_step(position, wishes, 100)[0] == "execute"
