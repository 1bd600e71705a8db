"""A stock server's facilitator client asks a busy facilitator again; any other failure is told at once."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from x402.schemas import PaymentPayload, PaymentRequirements

from machpay.x402 import MachPayFacilitatorClient, MachPayFacilitatorClientSync, facilitator

REQUIRED = PaymentRequirements(
    scheme="machpay-bond", network="solana:x", amount="1", asset="a", pay_to="v", max_timeout_seconds=60
)
PAYLOAD = PaymentPayload(x402_version=2, payload={}, accepted=REQUIRED)


class Quiet(WSGIRequestHandler):
    def log_message(self, *words: object) -> None:
        """Nothing."""


class Desk:
    """Answers these statuses, then 200."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.asked.append(environ["PATH_INFO"])
        status = self.statuses.pop(0) if self.statuses else "200 OK"
        start(status, [("Content-Type", "application/json"), ("Retry-After", "1")])
        if self.asked[-1] == "/verify":
            return [b'{"isValid":true,"payer":"p"}']
        return [b'{"success":true,"transaction":"","network":"solana:x","payer":"p"}']


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Desk, str]]:
    monkeypatch.setattr(facilitator, "BUSY_PAUSE_S", 0.01)
    found = Desk()
    with make_server("127.0.0.1", 0, found, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def settled(url: str, *, blocking: bool) -> tuple[bool, bool]:
    if blocking:
        with MachPayFacilitatorClientSync(url) as client:
            return client.verify(PAYLOAD, REQUIRED).is_valid, client.settle(PAYLOAD, REQUIRED).success

    async def work() -> tuple[bool, bool]:
        async with MachPayFacilitatorClient(url) as client:
            verified = await client.verify(PAYLOAD, REQUIRED)
            return verified.is_valid, (await client.settle(PAYLOAD, REQUIRED)).success

    return asyncio.run(work())


@pytest.mark.parametrize("blocking", [False, True])
def test_a_busy_facilitator_is_asked_again(desk: tuple[Desk, str], blocking: bool) -> None:
    found, url = desk
    found.statuses = ["503 Service Unavailable"] * 2 + ["200 OK", "503 Service Unavailable"]
    assert settled(url, blocking=blocking) == (True, True)
    assert found.asked == ["/verify"] * 3 + ["/settle"] * 2


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(("status", "times"), [("503 Service Unavailable", 6), ("400 Bad Request", 1)])
def test_not_for_ever_and_not_for_what_will_not_change(
    desk: tuple[Desk, str], blocking: bool, status: str, times: int
) -> None:
    found, url = desk
    found.statuses = [status] * 20
    with pytest.raises(ValueError, match=status[:3]):
        settled(url, blocking=blocking)
    assert found.asked == ["/verify"] * times
