"""Anchoring payments: each is in one batch, the batches continue the chain's head, and every payment can be proven."""

import struct
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.payments.models import Batch, BatchLeaf, PaymentIntent, Settlement, UnbatchedPayment
from apps.payments.services import batches as rows
from apps.settlement.errors import SettlementPaused
from apps.settlement.services import anchor as anchor_module
from apps.settlement.services.anchor import commit_batch
from apps.settlement.services.signing import Signing
from devnet.offers import ATLAS, LEXICON
from machpay.chain.accounts import Batch as BatchAccount
from machpay.chain.accounts import GlobalBond
from machpay.chain.client import ChainClient
from machpay.chain.instructions import commit_batch as commit_instruction
from machpay.protocol.encoding import U64_MAX
from machpay.protocol.proofs import InclusionProof, batch_head
from tests.settlement.conftest import Recon


@pytest.fixture
def anchored(recon: Recon, settings, tmp_path: Path) -> Recon:
    """Recon whose batches are due at once."""
    settings.BATCH_INTERVAL_S = 0
    settings.BATCH_ARCHIVE_DIR = str(tmp_path / "batches")
    return recon


def commit(recon: Recon) -> Batch:
    """Cut a batch and bring it to its end."""
    recon.run(commit_batch)
    finish(recon)
    return Batch.objects.latest("id")


def finish(recon: Recon) -> None:
    for _ in range(40):
        if not Batch.objects.filter(state="CUT").exists():
            return
        recon.chain.wait_until_final()
        recon.follow()
        recon.run(commit_batch)
    raise AssertionError(list(Settlement.objects.values_list("kind", "state", "error")))


def account_of(recon: Recon, batch: Batch) -> BatchAccount:
    account = recon.chain.call(lambda client: client.batch(batch.sequence, "finalized"))
    assert account is not None
    return account


def bond_of(recon: Recon) -> GlobalBond:
    bond = recon.chain.call(lambda client: client.bond("finalized"))
    assert bond is not None
    return bond


def events_of(recon: Recon, signature: str) -> list[str]:
    """Names of what one final transaction recorded."""
    found = recon.chain.call(lambda client: client.events(signature, "finalized"))
    return [type(seen.event).__name__ for seen in found or ()]


def attempt_of(batch: Batch) -> Settlement:
    assert batch.transaction is not None
    return batch.transaction


def every_payment_is_in_one_batch() -> None:
    digests = [bytes(digest) for digest in PaymentIntent.objects.values_list("digest", flat=True)]
    leaves = [bytes(digest) for digest in BatchLeaf.objects.values_list("digest", flat=True)]
    waiting = [bytes(digest) for digest in UnbatchedPayment.objects.values_list("digest", flat=True)]
    assert sorted(digests) == sorted([*leaves, *waiting])


def test_payments_are_anchored_once_and_proven_to_anybody(anchored: Recon, client) -> None:
    first, second = anchored.payers(2, LEXICON)
    paid = [first.pay(700), first.pay(300, charged=0), second.pay(5)]
    anchored.deliver(*paid)
    digest = paid[1].intent.digest.hex()
    waiting = client.get(f"/v1/payments/{digest}/proof")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "not_batched_yet")
    assert waiting["Retry-After"] == "1"

    batch = commit(anchored)

    account = account_of(anchored, batch)
    assert (account.root, account.leaf_count, account.total) == (bytes(batch.root), 3, 705)
    assert account.head == bytes(batch.head)
    assert not UnbatchedPayment.objects.exists()
    for payment in paid:
        answer = client.get(f"/v1/payments/{payment.intent.digest.hex()}/proof")
        assert answer.status_code == 200
        assert "immutable" in answer["Cache-Control"]
        proof = InclusionProof.parse(answer.content)
        assert proof.holds(root=account.root, leaf_count=account.leaf_count)
        assert (proof.leaf.digest, proof.leaf.charged) == (payment.intent.digest, payment.charged)
        assert proof.leaf.served_total == payment.served_total
        assert proof.batch.address == str(anchored.chain.network.batch(batch.sequence))
        events = events_of(anchored, proof.batch.transaction)
        assert events == ["BatchSettled"]
    assert anchored.run(commit_batch) is None
    row = Settlement.objects.get(kind="ANCHOR")
    assert (row.state, row.planned_atomic) == ("FINALIZED", 0)


@pytest.mark.parametrize(
    ("digest", "status", "code"),
    [("0" * 64, 404, "unknown_payment"), ("zz", 400, "malformed"), ("AB" * 32, 400, "malformed")],
)
def test_what_is_no_payment_is_a_problem(
    anchored: Recon, client, digest: str, status: int, code: str
) -> None:
    answer = client.get(f"/v1/payments/{digest}/proof")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


def test_charges_that_pass_64_bits_together_hold_up_no_batch(anchored: Recon) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    for _ in range(2):
        payer.cumulative, payer.served = 1_000 - U64_MAX, 0
        anchored.deliver(payer.pay(U64_MAX))

    batch = commit(anchored)

    assert (batch.state, batch.leaf_count, batch.total_atomic) == ("COMMITTED", 2, U64_MAX)
    assert account_of(anchored, batch).total == U64_MAX


def test_batches_continue_each_other_without_gaps(anchored: Recon) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    found = []
    for amount in (10, 20, 30):
        anchored.deliver(payer.pay(amount), payer.pay(amount))
        found.append(commit(anchored))
    for before, after in pairwise(found):
        assert after.sequence == before.sequence + 1
        assert bytes(after.previous_head) == bytes(before.head)
        assert bytes(after.head) == batch_head(bytes(before.head), after.sequence, 2, bytes(after.root))
    bond = bond_of(anchored)
    assert (bond.batch_sequence, bond.batch_head) == (found[-1].sequence + 1, bytes(found[-1].head))
    every_payment_is_in_one_batch()


def test_a_batch_waits_for_its_time_and_holds_at_most_so_many(anchored: Recon, settings) -> None:
    settings.BATCH_LEAVES_MAX = 3
    settings.BATCH_INTERVAL_S = 3600
    (payer,) = anchored.payers(1, LEXICON)
    paid = [payer.pay(1) for _ in range(5)]
    anchored.deliver(*paid)
    batch = commit(anchored)
    # The longest stored go first, and a full batch is followed by the next at once.
    assert {bytes(leaf.digest) for leaf in batch.leaves.all()} == {p.intent.digest for p in paid[:3]}
    assert commit(anchored).leaf_count == 2
    anchored.deliver(payer.pay(1))
    assert anchored.run(commit_batch) is None
    later = timezone.now() + timedelta(seconds=3601)
    assert anchored.run(lambda chain: commit_batch(chain, now=later)) is not None
    finish(anchored)
    assert Batch.objects.count() == 3
    every_payment_is_in_one_batch()


def test_the_order_of_leaves_follows_from_the_set_alone(anchored: Recon) -> None:
    first, second = anchored.payers(1, LEXICON), anchored.payers(1, ATLAS)
    anchored.deliver(*(first[0].pay(2) for _ in range(4)))
    anchored.deliver(*(second[0].pay(3) for _ in range(4)))
    batch = commit(anchored)
    leaves = list(batch.leaves.order_by("index").values_list("index", "digest"))
    assert [index for index, _ in leaves] == list(range(8))
    assert [bytes(digest) for _, digest in leaves] == sorted(bytes(digest) for _, digest in leaves)


def test_the_database_refuses_to_change_what_is_in_a_batch(anchored: Recon) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7))
    batch = commit(anchored)
    for change in (
        "UPDATE payments_batch_leaf SET charged_atomic = 8",
        "UPDATE payments_batch SET leaf_count = 2",
        "UPDATE payments_batch SET sequence = sequence + 1",
        "UPDATE payments_batch SET state = 'CUT', committed_at = NULL",
        "INSERT INTO payments_unbatched (digest, charged_atomic, served_total_atomic)"
        " SELECT digest, 1, 1 FROM payments_unbatched UNION ALL SELECT 'a', 1, 1 UNION ALL SELECT 'a', 1, 1",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)
    assert Batch.objects.get().head == batch.head


def test_an_attempt_that_expired_is_signed_anew_for_the_same_batch(anchored: Recon) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7))
    with anchored.chain.control() as control:
        control.drop_sends(1)
        anchored.run(commit_batch)
        control.expire_blockhashes()
        anchored.chain.wait_until_final()
        control.advance_slots(20)
        anchored.chain.wait_until_final()
        anchored.follow()
    before = Batch.objects.get()
    assert (attempt_of(before).state, before.attempts) == ("FAILED", 1)
    finish(anchored)
    after = Batch.objects.get()
    assert (after.state, after.attempts) == ("COMMITTED", 2)
    assert (after.sequence, bytes(after.root)) == (before.sequence, bytes(before.root))
    assert after.signature == attempt_of(after).signature != attempt_of(before).signature


def test_a_batch_displaced_by_somebody_elses_moves_on_unchanged(anchored: Recon, monkeypatch) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7))
    monkeypatch.setattr(anchor_module, "_attempt", lambda *_: None)
    anchored.run(commit_batch)
    monkeypatch.undo()
    cut = Batch.objects.get()
    commit_elsewhere(anchored, sequence=cut.sequence, root=b"\x07" * 32)
    anchored.chain.wait_until_final()

    finish(anchored)
    landed = Batch.objects.get()
    assert landed.sequence == cut.sequence + 1
    assert bytes(landed.root) == bytes(cut.root)
    assert bytes(landed.previous_head) == batch_head(bytes(cut.previous_head), cut.sequence, 1, b"\x07" * 32)
    assert account_of(anchored, landed).root == bytes(cut.root)


def test_a_database_that_was_set_back_meets_its_own_batch(anchored: Recon, monkeypatch) -> None:
    """The account counts, not the row that sent it: the same batch committed by another transaction is committed."""
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7))
    monkeypatch.setattr(ChainClient, "send", _refuse)
    anchored.run(commit_batch)
    monkeypatch.undo()
    cut = Batch.objects.get()
    assert attempt_of(cut).state == "FAILED"
    signature = commit_elsewhere(anchored, sequence=cut.sequence, root=bytes(cut.root), total=7)
    anchored.chain.wait_until_final()

    anchored.run(commit_batch)
    row = Batch.objects.get()
    assert (row.state, row.signature, row.attempts) == ("COMMITTED", signature, 1)


async def _refuse(_client: ChainClient, _raw: bytes) -> str:
    from machpay.chain.errors import TransactionRejected

    raise TransactionRejected("refused")


def commit_elsewhere(recon: Recon, *, sequence: int, root: bytes, total: int = 1) -> str:
    relayer = recon.chain.keys.get("relayer").keypair()
    step = commit_instruction(
        recon.chain.network, relayer=relayer.pubkey(), sequence=sequence, root=root, leaf_count=1, total=total
    )
    return recon.chain.call(lambda client: client.send_and_confirm([step], relayer))


def test_another_head_than_recorded_stops_the_chain_of_batches(anchored: Recon, monkeypatch) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7))
    commit(anchored)
    anchored.deliver(payer.pay(7))
    prepare = Signing.prepare

    def behind(chain):
        signing = prepare(chain)
        object.__setattr__(signing.bond, "batch_sequence", signing.bond.batch_sequence - 1)
        return signing

    monkeypatch.setattr(Signing, "prepare", behind)
    with pytest.raises(SettlementPaused, match="behind"):
        anchored.run(commit_batch)

    def other_head(chain):
        signing = prepare(chain)
        object.__setattr__(signing.bond, "batch_head", bytes(32))
        return signing

    monkeypatch.setattr(Signing, "prepare", other_head)
    with pytest.raises(SettlementPaused, match="not the one recorded here"):
        anchored.run(commit_batch)
    assert Batch.objects.count() == 1
    assert UnbatchedPayment.objects.count() == 1


def test_two_workers_cut_one_batch(anchored: Recon) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    anchored.deliver(payer.pay(7), payer.pay(8))
    bond = bond_of(anchored)
    for expected in (True, False):
        cut = rows.cut_batch(sequence=bond.batch_sequence, previous_head=bond.batch_head, leaves_max=1)
        assert (cut is not None) is expected
    stale = rows.open_batch()
    assert stale is not None
    anchored.run(commit_batch)
    assert rows.store_attempt(stale, raw_transaction=b"x", signature="x", last_valid_block_height=1) is None
    assert not rows.move_batch(stale, sequence=stale.sequence + 5, previous_head=bytes(32))
    finish(anchored)
    assert Settlement.objects.filter(kind="ANCHOR").count() == 1


def test_archived_batches_are_proven_from_files(anchored: Recon, client, settings, capsys) -> None:
    (payer,) = anchored.payers(1, LEXICON)
    paid = []
    for _ in range(3):
        paid.append([payer.pay(1) for _ in range(3)])
        anchored.deliver(*paid[-1])
        commit(anchored)
    before = {
        payment.intent.digest: client.get(f"/v1/payments/{payment.intent.digest.hex()}/proof").content
        for payments in paid
        for payment in payments
    }
    call_command("archive_batches", "--older-than-days", "0", "--dry-run")
    assert "would be written" in capsys.readouterr().out
    assert BatchLeaf.objects.count() == 9

    call_command("archive_batches", "--older-than-days", "0")

    assert not BatchLeaf.objects.exists()
    (file,) = Path(settings.BATCH_ARCHIVE_DIR).iterdir()
    for digest, answer in before.items():
        assert client.get(f"/v1/payments/{digest.hex()}/proof").content == answer
    assert client.get(f"/v1/payments/{'12' * 32}/proof").status_code == 404
    call_command("archive_batches", "--older-than-days", "0")
    assert "nothing to archive" in capsys.readouterr().out

    call_command("archive_batches", "--verify")
    damaged = bytearray(file.read_bytes())
    struct.pack_into("<Q", damaged, 20 + 3 * 24 + 32, 999)
    file.write_bytes(damaged)
    with pytest.raises(SystemExit):
        call_command("archive_batches", "--verify")
    assert file.name in capsys.readouterr().out
    file.unlink()
    gone = client.get(f"/v1/payments/{digest.hex()}/proof")
    assert (gone.status_code, gone.json()["code"]) == (503, "archive_unavailable")
