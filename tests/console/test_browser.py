"""The console in a real browser, fed by the real receiver through the real stream."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from apps.console.tasks import publish_stats
from apps.console.templatetags.console import shortened
from apps.core import live
from machpay.protocol.keys import SigningKey
from tests.console import rows
from tests.support.servers import Server, uvicorn
from tests.telemetry.senders import Sender

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module", autouse=True)
def orm_beside_playwright() -> Iterator[None]:
    """Playwright's loop runs in this thread while tests use the ORM; the tests themselves are synchronous."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture(autouse=True)
def nothing_paid_yet(transactional_db: None) -> None:
    """Receivers of earlier tests are processes of their own: what they stored is there until somebody removes it."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE telemetry_events, payment_authorized, request_blocked")


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with uvicorn("machpay_site.asgi:application", tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="module")
def receiver(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with uvicorn("apps.telemetry.receiver.asgi:app", tmp_path_factory.mktemp("receiver")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)
    path = shutil.which("chromium")
    assert path, "the browser tests need Chromium: apt-get install chromium fonts-dejavu-core"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser, web: Server) -> Iterator[OpenPage]:
    """Open the console; at the end no page may have reported an error (a blocked script, an exception)."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(*, cookies: Any = None, live: bool = True, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        if cookies:
            context.add_cookies(cookies)
        page = context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(web.url)
        if live:
            expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def gateway(receiver: Server) -> Sender:
    sender = Sender(receiver.url)
    rows.gateway(pubkey=sender.key.pubkey)
    return sender


def staff_cookies(web: Server) -> list[dict[str, str]]:
    from django.test import Client

    client = Client()
    client.force_login(get_user_model().objects.create_user(username="operator", is_staff=True))
    return [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": web.url}]


def test_a_payment_appears_while_one_watches(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    expect(page.get_by_text("No payments yet.")).to_be_visible()
    agent = SigningKey.generate().pubkey
    assert (
        gateway.send(gateway.payment(agent, route="/embed", amount="1234567", charged="1234567")).status_code
        == 202
    )
    row = page.locator("#payments tbody tr")
    expect(row).to_have_count(1)
    expect(row.locator(".route")).to_have_text("/embed")
    expect(row.locator(".amount")).to_have_text("1.234567")
    expect(row.locator("time")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    expect(page.get_by_text("No payments yet.")).to_be_hidden()
    assert shortened(agent) not in page.content()


def test_staff_sees_the_parties_of_a_live_payment_once(
    open_page: OpenPage, web: Server, gateway: Sender
) -> None:
    page = open_page(cookies=staff_cookies(web))
    agent = SigningKey.generate().pubkey
    assert gateway.send(gateway.payment(agent, route="/embed", latency_ms=12.4)).status_code == 202
    row = page.locator("#payments tbody tr")
    expect(row.locator("code.agent")).to_have_text(shortened(agent))
    expect(row.locator("code.gateway")).to_have_text(shortened(gateway.key.pubkey))
    expect(row.locator(".latency")).to_have_text("12 ms")
    expect(row).to_have_count(1)


def test_a_live_row_reads_like_the_one_the_server_renders(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    assert (
        gateway.send(gateway.payment(SigningKey.generate().pubkey, route="/embed", city="Lyon")).status_code
        == 202
    )
    row = page.locator("#payments tbody tr")
    expect(row).to_have_count(1)
    live_text = row.inner_text()
    page.reload()
    expect(row).to_have_count(1)
    assert row.inner_text() == live_text


def test_only_the_newest_payments_stay(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    for start in range(0, 60, 20):
        batch = [
            gateway.payment(SigningKey.generate().pubkey, route=f"/route-{number}")
            for number in range(start, start + 20)
        ]
        assert gateway.send(*batch).status_code == 202
    expect(page.locator("#payments tbody tr").first.locator(".route")).to_have_text("/route-59")
    expect(page.locator("#payments tbody tr")).to_have_count(25)


def test_pausing_holds_the_list_still(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    page.get_by_role("button", name="Pause").click()
    for _ in range(3):
        assert gateway.send(gateway.payment(SigningKey.generate().pubkey)).status_code == 202
    resume = page.get_by_role("button", name="Resume (3 new)")
    expect(resume).to_be_visible()
    expect(page.locator("#payments tbody tr")).to_have_count(0)
    resume.click()
    expect(page.locator("#payments tbody tr")).to_have_count(3)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_list_that_is_held_still_is_rendered_anew_only_when_it_goes_on(
    open_page: OpenPage, gateway: Sender
) -> None:
    page = open_page()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/payments", hold)
    page.reload()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.get_by_role("button", name="Pause").click()
    for _ in range(3):
        assert gateway.send(gateway.payment(SigningKey.generate().pubkey)).status_code == 202
    resume = page.get_by_role("button", name="Resume (3 new)")
    expect(resume).to_be_visible()
    with page.expect_response("**/payments") as answer:
        held.pop().continue_()
    assert answer.value.text().count('<td class="amount">') == 3
    page.wait_for_timeout(300)
    expect(page.locator("#payments tbody tr")).to_have_count(0)
    page.unroute("**/payments")
    with page.expect_response("**/payments"):
        resume.click()
    expect(page.locator("#payments tbody tr")).to_have_count(3)


def test_the_figures_follow_the_stats(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    expect(page.locator("#paid-calls")).to_have_text("0")
    rows.channel(rows.gateway(), charged=4_000_000, settled=3_000_000, calls=1_500)
    assert publish_stats() is True
    expect(page.locator("#charged")).to_have_text("4.000000")
    expect(page.locator("#settled")).to_have_text("3.000000")
    expect(page.locator("#unsettled")).to_have_text("1.000000")
    expect(page.locator("#paid-calls")).to_have_text("1,500")
    expect(page.locator("#gateways-up")).to_have_text("2")
    expect(page.locator("#meter-fill")).to_have_attribute("width", "75")


def test_a_settlement_appears_while_one_watches(open_page: OpenPage, gateway: Sender) -> None:
    page = open_page()
    settled = rows.settlement("FINALIZED", paid=1_500_000)
    live.publish(live.TICKER, "settlement", {"amount_atomic": "1500000", "channels": 2})
    line = page.locator("#settlements li")
    expect(line.locator(".signature")).to_have_attribute("title", settled.signature)
    expect(line.locator(".amount")).to_have_text("1.500000 USDC")
    expect(line.locator(".state")).to_have_text("Finalized")


def test_after_an_outage_the_page_is_live_and_complete_again(
    browser: Browser, django_db_setup: None, receiver: Server, tmp_path: Path
) -> None:
    gateway = Sender(receiver.url)
    with uvicorn("machpay_site.asgi:application", tmp_path) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        connection = page.locator("#connection")
        expect(connection).to_have_attribute("data-state", "live")
        server.process.kill()
        expect(connection).not_to_have_attribute("data-state", "live")
        assert gateway.send(gateway.payment(SigningKey.generate().pubkey, route="/missed")).status_code == 202
        server.process.start()
        server.process.wait_healthy()
        expect(connection).to_have_attribute("data-state", "live")
        expect(page.locator("#payments tbody tr .route")).to_have_text("/missed")
        context.close()


def test_without_scripts_the_page_is_complete(open_page: OpenPage, gateway: Sender) -> None:
    assert gateway.send(gateway.payment(SigningKey.generate().pubkey, route="/embed")).status_code == 202
    page = open_page(live=False, java_script_enabled=False)
    expect(page.locator("#payments tbody tr .route")).to_have_text("/embed")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(
    open_page: OpenPage, gateway: Sender, web: Server, width: int, scheme: str
) -> None:
    rows.channel(rows.gateway(), charged=123_456_789_012, settled=120_000_000_000, calls=98_765_432)
    rows.settlement(paid=1)
    assert (
        gateway.send(gateway.payment(SigningKey.generate().pubkey, route="/" + "long/" * 12)).status_code
        == 202
    )
    for cookies in (None, staff_cookies(web)):
        page = open_page(cookies=cookies, viewport={"width": width, "height": 900}, color_scheme=scheme)
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
