"""`manage.py settle` and `manage.py recon_status`."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.payments.models import Channel, Settlement
from devnet.offers import ATLAS, LEXICON
from machpay.protocol.keys import SigningKey
from tests.settlement.conftest import Recon


def command(capsys, *arguments: str) -> dict[str, Any]:
    call_command(*arguments, "--json")
    told: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return told


def test_settle_now_pays_small_and_recent_amounts_and_waits(recon: Recon, settings, capsys) -> None:
    settings.SETTLE_MINIMUM_ATOMIC = settings.SETTLE_CREATE_MINIMUM_ATOMIC = 1_000_000
    (lexicon,), (atlas,) = recon.payers(1, LEXICON), recon.payers(1, ATLAS)
    for payer in (lexicon, atlas):
        recon.deliver(payer.pay(5))
    assert recon.settle() == []

    told = command(capsys, "settle", "--now", "--dry-run")
    assert told == {"dry_run": True, "transactions": 2, "channels": 2, "amount_atomic": 10}
    call_command("settle", "--now", "--dry-run")
    assert "nothing was sent" in capsys.readouterr().out
    assert not Settlement.objects.exists()

    told = command(capsys, "settle", "--now", "--vendor", str(lexicon.vendor))
    assert (told["settlements"], told["final"], told["paid_atomic"]) == (1, 1, 5)
    assert (recon.statuses(lexicon), recon.statuses(atlas)) == (["SETTLED"], ["PENDING"])

    call_command("settle", "--now")
    assert "1 final, 0 failed, 0 under way" in capsys.readouterr().out
    assert recon.statuses(atlas) == ["SETTLED"]
    told = command(capsys, "settle", "--now")
    assert (told["settlements"], told["channels"]) == (0, 0)


def test_settle_for_a_vendor_that_is_none_says_so(recon: Recon) -> None:
    nobody = SigningKey.generate().pubkey
    for options in ((), ("--dry-run",)):
        with pytest.raises(CommandError, match=f"{nobody} is no vendor of this network") as refused:
            call_command("settle", "--now", "--vendor", nobody, *options)
        assert refused.value.returncode == 2


def test_settle_says_when_it_cannot_and_when_it_is_not_done(recon: Recon, settings, capsys) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(5))
    with pytest.raises(CommandError, match="--now"):
        call_command("settle")
    with recon.chain.control() as control:
        control.hold_finality()
        with pytest.raises(SystemExit) as ended:
            call_command("settle", "--now", "--timeout", "1")
    assert ended.value.code == 1
    assert "1 under way" in capsys.readouterr().out
    recon.rest()
    settings.RELAYER_KEYPAIR = ""
    with pytest.raises(CommandError, match="RELAYER_KEYPAIR") as refused:
        call_command("settle", "--now")
    assert refused.value.returncode == 2


def test_recon_status_counts_what_waits_and_what_is_under_way(recon: Recon, settings, capsys) -> None:
    told = command(capsys, "recon_status")
    assert (told["unsettled_channels"], told["open"], told["stuck"]) == (0, {}, False)
    settings.SETTLE_MINIMUM_ATOMIC = 100
    small, large = recon.payers(2, LEXICON)
    recon.deliver(small.pay(40))
    recon.deliver(large.pay(400), large.pay(1, charged=0))

    told = command(capsys, "recon_status")
    assert (told["unsettled_channels"], told["unsettled_atomic"], told["due_channels"]) == (2, 440, 1)
    assert (told["urgent_channels"], told["unbatched_payments"], told["batches"]) == (0, 3, 0)
    assert told["slot"] > 0

    recon.settle()
    told = command(capsys, "recon_status")
    assert (told["due_channels"], told["open"]) == (0, {"SENT": 1})
    Settlement.objects.update(created_at=timezone.now() - timedelta(hours=1))
    with pytest.raises(SystemExit) as ended:
        call_command("recon_status")
    assert ended.value.code == 1
    assert "1 SENT" in capsys.readouterr().out
    recon.rest()
    told = command(capsys, "recon_status")
    assert (told["unsettled_channels"], told["open"], told["unapplied"]) == (1, {}, 0)
    assert Channel.objects.get(unsettled_since__isnull=False).address == str(small.channel)
