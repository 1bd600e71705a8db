"""`manage.py import_settlements`: what a file proves is stored once, whoever brings it and however often."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from django.core.management import CommandError, call_command

from apps.ledger import chart
from apps.ledger.models import Transfer
from apps.ledger.selectors import balance
from apps.payments.models import Equivocation, PaymentIntent
from apps.payments.services import recovery
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.settlements import ResolvedPayment, to_item
from tests.payments.conftest import deliver, registered, stored, unsettled
from tests.payments.factories import MINT, NETWORK, Party, Payer

pytestmark = pytest.mark.django_db


def line_of(payment: ResolvedPayment, **changes: object) -> bytes:
    fields = {**msgspec.to_builtins(to_item(payment)), **changes}
    return msgspec.json.encode(fields) + b"\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settlements.jsonl"


def run(file: Path, *options: str) -> tuple[Sequence[str], int]:
    """The lines that are printed, and the exit code."""
    out = StringIO()
    code = 0
    try:
        call_command("import_settlements", "--file", str(file), *options, stdout=out)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return out.getvalue().splitlines(), code


def test_the_summary_counts_what_is_there_and_what_is_new(payer, gateway, file):
    delivered, new = [payer.pay(100), payer.pay(50, charged=0)], [payer.pay(25), payer.pay(5)]
    deliver(*delivered)
    file.write_bytes(b"".join(line_of(payment) for payment in (*delivered, *new)))

    assert run(file) == (
        [
            "Found 4 settlements in file",
            "- 2 already processed (skipping)",
            "- 2 new settlements to import",
            "Importing... done",
            "Successfully imported 2 settlements",
        ],
        0,
    )
    assert stored(payer.channel) == [
        ("PENDING", 100, 100),
        ("VOID", 0, 100),
        ("PENDING", 25, 125),
        ("PENDING", 5, 130),
    ]
    assert unsettled(gateway) == 130


def test_a_dry_run_says_the_same_and_writes_nothing(payer, gateway, file):
    file.write_bytes(line_of(payer.pay(100)) + line_of(payer.pay(50)))

    shown, code = run(file, "--dry-run")

    assert (shown[:3], code) == (
        ["Found 2 settlements in file", "- 0 already processed (skipping)", "- 2 new settlements to import"],
        0,
    )
    assert shown[-1] == "Dry run: nothing was imported"
    assert (PaymentIntent.objects.count(), Transfer.objects.count(), unsettled(gateway)) == (0, 0, 0)


def test_importing_twice_moves_nothing_twice(payer, gateway, file):
    payment = payer.pay(100)
    file.write_bytes(line_of(payment) + line_of(payment))

    assert run(file)[0][1:3] == ["- 1 already processed (skipping)", "- 1 new settlements to import"]
    shown, code = run(file)

    assert (shown[1:3], shown[-1], code) == (
        ["- 2 already processed (skipping)", "- 0 new settlements to import"],
        "Nothing to import",
        0,
    )
    assert (PaymentIntent.objects.count(), unsettled(gateway)) == (1, 100)


def test_a_file_of_several_gateways_and_agents_is_sorted_out(bound, file):
    first, second = registered(), registered()
    payers = [Payer(SigningKey.generate(), party) for party in (first, second, first)]
    file.write_bytes(b"".join(line_of(payer.pay(10)) for _ in range(3) for payer in payers))

    assert run(file)[0][-1] == "Successfully imported 9 settlements"
    assert (unsettled(first), unsettled(second)) == (60, 30)
    for payer in payers:
        assert [charged for _, charged, _ in stored(payer.channel)] == [10, 10, 10]


def test_dead_letters_are_read_as_they_are(payer, gateway, file):
    file.write_bytes(line_of(payer.pay(100), rejected_code="too_large"))

    assert run(file)[0][-1] == "Successfully imported 1 settlements"
    assert unsettled(gateway) == 100


def test_a_line_that_proves_nothing_is_named_and_the_rest_imported(payer, gateway, file):
    stranger = Payer(SigningKey.generate(), Party())
    good = payer.pay(7)
    raised = line_of(payer.pay(100), amount="200", charged="200")
    more_charged = line_of(payer.pay(100, charged=40), charged="100")
    no_receipt = line_of(payer.pay(100, receipt=False))
    file.write_bytes(
        b"".join(
            [
                b'{"agent": "cut o\n',
                raised,
                more_charged,
                no_receipt,
                line_of(stranger.pay(5)),
                b"\n",
                line_of(payer.pay(9), vendor=str(stranger.gateway.vendor)),
                line_of(good),
                b"x" * 70_000 + b"\n",
            ]
        )
    )

    shown, code = run(file)

    assert code == 1
    assert shown[:5] == [
        "Found 8 settlements in file",
        "- 0 already processed (skipping)",
        "- 1 new settlements to import",
        "- 7 cannot be imported",
        "    line 1: settlement item: Input data was truncated",
    ]
    assert shown[5:11] == [
        "    line 2: invalid_signature",
        "    line 3: invalid_signature",
        "    line 4: receipt_missing",
        f"    line 5: unknown_gateway {stranger.gateway.pubkey}",
        "    line 7: wrong_vendor",
        "    line 9: longer than 65536 bytes",
    ]
    assert shown[-1] == "Successfully imported 1 settlements"
    assert stored(payer.channel) == [("PENDING", 7, 7)]
    assert balance(chart.unsettled(str(stranger.gateway.vendor), stranger.gateway.pubkey, MINT)) == 0


def test_another_payment_under_a_stored_nonce_is_refused_for_good(payer, gateway, file):
    nonce = new_nonce()
    deliver(payer.pay(100, nonce=nonce))
    file.write_bytes(line_of(payer.pay(60, nonce=nonce)))

    shown, code = run(file)

    assert (shown[3:5], shown[-1], code) == (
        ["- 1 cannot be imported", "    line 1: nonce_replayed"],
        "Nothing to import",
        1,
    )
    assert unsettled(gateway) == 100


def test_an_equivocation_found_in_a_file_is_recorded(payer, gateway, file):
    other = registered()
    nonce = new_nonce()
    deliver(payer.pay(100, nonce=nonce))
    file.write_bytes(line_of(Payer(payer.agent, other).pay(30, nonce=nonce)))

    assert run(file)[0][-1] == "Successfully imported 1 settlements"
    assert Equivocation.objects.count() == 1
    assert (unsettled(gateway), unsettled(other)) == (100, 30)


@pytest.mark.django_db(transaction=True)
def test_an_import_that_broke_off_goes_on_where_it_was(payer, gateway, file, monkeypatch):
    monkeypatch.setattr(recovery, "CHUNK_LINES", 2)
    payments = [payer.pay(10) for _ in range(7)]
    file.write_bytes(b"".join(map(line_of, payments)))
    lines = iter(file.read_bytes().splitlines(keepends=True))

    def pulled_out():
        for _ in range(5):
            yield next(lines)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recovery.import_items(pulled_out(), network=NETWORK, progress=lambda _read: None)
    assert unsettled(gateway) == 40

    shown, code = run(file)

    assert (shown[1:3], shown[-1], code) == (
        ["- 4 already processed (skipping)", "- 3 new settlements to import"],
        "Successfully imported 3 settlements",
        0,
    )
    assert unsettled(gateway) == 70
    assert [through for _, _, through in stored(payer.channel)] == [10, 20, 30, 40, 50, 60, 70]


def test_a_terminal_sees_how_far_it_is(payer, file, monkeypatch):
    monkeypatch.setattr(recovery, "CHUNK_LINES", 2)
    file.write_bytes(b"".join(line_of(payer.pay(10)) for _ in range(4)))
    out = StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]

    call_command("import_settlements", "--file", str(file), stdout=out, no_color=True)

    assert f"\rImporting... [{'#' * 15}{'-' * 15}] 2/4\r" in out.getvalue()
    assert f"\rImporting... [{'#' * 30}] 4/4\n" in out.getvalue()


def test_a_file_that_is_not_there_is_said_so(bound, tmp_path):
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_settlements", "--file", str(tmp_path / "none.jsonl"))


def test_a_database_of_no_network_imports_nothing(db, file):
    file.write_bytes(b"")
    with pytest.raises(CommandError, match="network"):
        call_command("import_settlements", "--file", str(file))
