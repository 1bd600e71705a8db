"""The console's pages as the server renders them: complete without scripts, honest about who may see what."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from apps.console.templatetags.console import shortened, sparkline, usdc
from apps.payments.models import Network
from apps.telemetry.models import PaymentAuthorized
from tests.console import rows

pytestmark = pytest.mark.django_db


def report(gateway: str, agent: str, **fields: Any) -> PaymentAuthorized:
    """A payment as the receiver stores it."""
    values = {
        "event_time": datetime.now(UTC),
        "source": f"gateway:{gateway}",
        "id": rows.pubkey(),
        "gateway": gateway,
        "agent": agent,
        "amount_atomic": 1_000,
        "charged_atomic": 1_000,
        "http_status": 200,
        **fields,
    }
    return PaymentAuthorized.objects.create(**values)


def text(response: Any) -> str:
    """What a reader sees: the page without tags."""
    assert response.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture(autouse=True)
def nothing_reported_yet(db: None) -> None:
    """Receivers of earlier tests are processes of their own: what they stored outlives a test's rollback."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM payment_authorized")


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_user(username="operator", is_staff=True))
    return client


def test_an_empty_network_says_so(client: Client) -> None:
    page = text(client.get("/"))
    for sentence in ("No payments yet.", "Nothing settled yet.", "No gateways yet."):
        assert sentence in page
    assert "Gateways up 0 of 0" in page
    assert "Charged 0.000000 USDC" in page


def test_the_figures_are_those_of_the_channels(client: Client) -> None:
    busy, silent = rows.gateway(), rows.gateway("DOWN")
    rows.gateway(revoked=True)
    rows.channel(busy, charged=2_500_000, settled=1_000_000, calls=1_200)
    rows.channel(silent, charged=500_001, settled=500_001, calls=34)
    page = text(client.get("/"))
    assert "Charged 3.000001 USDC" in page
    assert "Settled on-chain 1.500001 USDC" in page
    assert "Unsettled 1.500000 USDC" in page
    assert "Paid calls 1,234" in page
    assert "Gateways up 1 of 2" in page
    assert b'aria-label="50 percent of what was charged is settled on chain"' in client.get("/").content


def test_a_claim_beyond_the_charges_never_shows_a_negative_amount(client: Client) -> None:
    rows.channel(rows.gateway(), charged=10, settled=15)
    assert "Unsettled 0.000000 USDC" in text(client.get("/"))


def test_everybody_sees_payments_without_their_parties(client: Client) -> None:
    gateway, agent = rows.pubkey(), rows.pubkey()
    report(gateway, agent, route="/users/812?secret=1", charged_atomic=1_234_567, latency_ms=3.2)
    response = client.get("/")
    page = text(response)
    assert "/users/:id 1.234567" in page
    assert "Anonymised" in page
    for private in (agent, gateway, shortened(agent), shortened(gateway), "812", "secret", "3 ms"):
        assert private not in response.content.decode()
    assert b'events?topics=ticker,stats"' in response.content


def test_staff_sees_who_paid_whom_and_watches_the_gateways(staff: Client) -> None:
    gateway, agent = rows.gateway(), rows.pubkey()
    report(gateway.pubkey, agent, route="/users/812", latency_ms=3.2)
    response = staff.get("/")
    page = text(response)
    assert f"/users/812 {shortened(agent)} → to {shortened(gateway.pubkey)} 3 ms 0.001000" in page
    assert f"topics=ticker,stats,vendor:{gateway.pubkey}".encode() in response.content


def test_a_signed_in_user_without_rights_sees_no_parties(client: Client) -> None:
    agent = rows.pubkey()
    report(rows.pubkey(), agent)
    client.force_login(get_user_model().objects.create_user(username="somebody"))
    assert shortened(agent) not in client.get("/").content.decode()


def test_payments_are_newest_first_and_only_those_that_charged(client: Client) -> None:
    key = rows.pubkey()
    now = datetime.now(UTC)
    for age, route in ((3, "/third"), (1, "/first"), (2, "/second")):
        report(key, rows.pubkey(), event_time=now - timedelta(seconds=age), route=route)
    report(key, rows.pubkey(), route="/void", charged_atomic=0)
    page = text(client.get("/parts/payments"))
    assert page.index("/first") < page.index("/second") < page.index("/third")
    assert "/void" not in page


def test_what_a_gateway_reports_cannot_inject_markup(client: Client) -> None:
    report(rows.pubkey(), rows.pubkey(), route="/<script>alert(1)</script>", city="<b>")
    content = client.get("/").content.decode()
    assert "<script>alert" not in content
    assert "&lt;b&gt;" in content


def test_settlements_show_what_was_paid_or_is_planned(client: Client) -> None:
    final = rows.settlement("FINALIZED", planned=2_000_000, paid=1_999_999)
    sent = rows.settlement("SENT", planned=7)
    page = text(client.get("/parts/settlements"))
    assert f"{shortened(sent.signature)} 0.000007 USDC Sent 2 channels to {shortened(sent.vendor)}" in page
    assert f"{shortened(final.signature)} 1.999999 USDC Finalized" in page
    assert page.index(shortened(sent.signature)) < page.index(shortened(final.signature))


def test_gateways_show_their_state_and_earnings_busiest_first(client: Client) -> None:
    quiet = rows.gateway("DOWN", url="")
    busy = rows.gateway(url="https://busy.example")
    rows.channel(busy, charged=1_000_000, calls=2)
    rows.channel(busy, charged=1, calls=1)
    page = text(client.get("/parts/gateways"))
    assert f"{shortened(busy.pubkey)} 1.000001 USDC Up https://busy.example 3 calls" in page
    assert f"{shortened(quiet.pubkey)} 0.000000 USDC Down never reported 0 calls" in page
    assert page.index(shortened(busy.pubkey)) < page.index(shortened(quiet.pubkey))


def test_the_network_is_named(client: Client) -> None:
    network = Network.objects.create(domain=rows.pubkey(), program_id=rows.pubkey(), mint=rows.pubkey())
    content = client.get("/").content.decode()
    assert f'title="{network.domain}"' in content
    assert f'title="{network.program_id}"' in content


def test_a_reader_without_scripts_is_told_how_old_the_page_is(client: Client) -> None:
    content = client.get("/").content.decode()
    notice = re.search(r"<noscript>(.*?)</noscript>", content)
    assert notice is not None
    assert re.search(r"This page shows \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", notice[1])


def test_pages_allow_no_foreign_or_inline_code(client: Client) -> None:
    for path in ("/", "/parts/payments"):
        response = client.get(path)
        assert "script-src 'self'" in response["Content-Security-Policy"]
        assert "default-src 'none'" in response["Content-Security-Policy"]
        assert "no-store" in response["Cache-Control"]
        content = response.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://(?!gateway)", content)


def test_unknown_parts_and_other_methods_are_refused(client: Client) -> None:
    assert client.get("/parts/ledger").status_code == 404
    assert client.post("/").status_code == 405


def test_health_names_every_component(client: Client) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "service": "web",
        "components": {
            "database": {"status": "ok"},
            "redis": {"status": "ok"},
            "live": {"status": "ok", "hub": "idle"},
        },
    }


def test_metrics_are_prometheus_text(client: Client) -> None:
    response = client.get("/metrics")
    assert response["Content-Type"].startswith("text/plain")
    assert b"machpay_live_streams" in response.content


@pytest.mark.parametrize(
    ("atomic", "shown"),
    [
        (0, "0.000000"),
        (1, "0.000001"),
        (1_000_000, "1.000000"),
        (1_234_567_890_123, "1,234,567.890123"),
        (2**64 - 1, "18,446,744,073,709.551615"),
    ],
)
def test_amounts_are_exact_and_always_as_wide(atomic: int, shown: str) -> None:
    assert usdc(atomic) == shown


def test_the_sparkline_ends_at_the_right() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 5.0, 10.0]) == "114,28.0 116,15.0 118,2.0"
    assert sparkline([0.0]) == "118,28.0"
