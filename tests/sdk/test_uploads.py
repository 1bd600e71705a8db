"""Bodies that are sent as they come: never held, bound to their route, and sent again only if they can be."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from machpay.client.errors import BodySpentError, GatewayMismatchError
from machpay.client.uploads import open_content
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, route_hash
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network
from tests.sdk.scripted import Scripted, changed

PIECE = b"p" * 50_000
COUNT = 16
WHOLE = PIECE * COUNT


class Pieces:
    """An iterator that can be taken once; `taken` counts what was asked of it."""

    def __init__(self, count: int = COUNT) -> None:
        self.taken = 0
        self._count = count

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._count):
            self.taken += 1
            yield PIECE


async def test_an_iterator_is_taken_once_and_paid_for_once(client, gateway, upstream, net):
    pieces = Pieces()
    response = await client.pay_and_call(gateway.url + "/paid", "POST", content=pieces)
    assert (response.status_code, response.json()["body"]) == (200, len(WHOLE))
    assert (response.payment.charged, pieces.taken) == (PRICE, COUNT)
    assert [body for *_, body in upstream.seen] == [WHOLE]
    await eventually(lambda: net.charged == PRICE, "charged once")
    # The price and the channel are known now: the next one goes up front.
    response = await client.pay_and_call(gateway.url + "/paid", "POST", content=Pieces())
    assert (response.payment.attempts, response.payment.served_total) == (1, 2 * PRICE)


async def test_no_more_than_the_gateway_reads_ahead_is_taken_before_it_has_asked_for_payment(
    client, gateway, upstream
):
    pieces = Pieces()
    source = await open_content(pieces)
    request = client._build(gateway.url + "/paid", "POST", None, None, None, source)
    asked = await client._transport.ask(request, body=source.upload("", waits=True))
    assert asked.status_code == 402
    assert pieces.taken == MAX_BOUND_BODY_BYTES // len(PIECE) + 1
    assert source.can_repeat
    assert upstream.seen == []


async def test_a_refused_upload_goes_again_with_the_corrected_total(make_client, gateway, upstream):
    first, second = await make_client(), await make_client()
    assert (await first.pay_and_call(gateway.url + "/paid")).charged == PRICE
    pieces = Pieces()
    response = await second.pay_and_call(gateway.url + "/paid", "POST", content=pieces)
    assert (response.payment.attempts, response.payment.served_total) == (2, 2 * PRICE)
    assert pieces.taken == COUNT
    assert len(upstream.seen) == 2


async def test_a_free_route_gets_the_whole_body(client, gateway, upstream):
    response = await client.pay_and_call(gateway.url + "/free", "POST", content=Pieces())
    assert (response.json()["body"], response.payment) == (len(WHOLE), None)
    assert [body for *_, body in upstream.seen] == [WHOLE]


async def test_a_short_iterator_is_an_ordinary_body(client, gateway, upstream):
    response = await client.pay_and_call(gateway.url + "/paid", "POST", content=Pieces(2))
    assert (response.json()["body"], response.payment.charged) == (2 * len(PIECE), PRICE)
    assert upstream.seen[0][2]["Content-Length"] == str(2 * len(PIECE))


@pytest.mark.parametrize("size", [0, 1, MAX_BOUND_BODY_BYTES, MAX_BOUND_BODY_BYTES + 1, len(WHOLE)])
async def test_a_file_is_sent_with_its_length_and_can_be_sent_again(
    make_client, gateway, upstream, tmp_path: Path, size
):
    path = tmp_path / "body"
    path.write_bytes(b"skipped" + WHOLE[:size])
    with path.open("rb") as file:
        file.seek(len(b"skipped"))
        client = await make_client()
        for _ in range(2):
            file.seek(len(b"skipped"))
            response = await client.pay_and_call(gateway.url + "/paid", "POST", content=file)
            assert (response.json()["body"], response.charged) == (size, PRICE)
    assert {(headers["Content-Length"], body) for *_, headers, body in upstream.seen} == {
        (str(size), WHOLE[:size])
    }


async def test_a_streamed_answer_to_a_streamed_body(client, gateway):
    async with client.stream(gateway.url + "/paid", "POST", content=io.BytesIO(WHOLE)) as response:
        assert b"".join([piece async for piece in response.aiter_bytes()]).startswith(b'{"path"')
    assert response.charged == PRICE


@pytest.fixture
async def scripted():
    server = Scripted(network=network())
    await server.start()
    yield server
    await server.stop()


async def test_an_iterator_that_was_sent_before_the_gateway_asked_is_spent(client, scripted):
    """This server reads all of a body before it says what it costs."""
    scripted.change_offer = changed(binding="route", request_hash=route_hash("POST", "/x"))
    with pytest.raises(BodySpentError):
        await client.pay_and_call(scripted.url + "/x", "POST", content=Pieces())
    assert scripted.paid == []
    # The price is known now.
    response = await client.pay_and_call(scripted.url + "/x", "POST", content=Pieces())
    assert response.charged == PRICE
    response = await client.pay_and_call(scripted.url + "/x", "POST", content=io.BytesIO(WHOLE))
    assert response.charged == PRICE


async def test_a_route_that_binds_the_whole_body_takes_no_stream(client, scripted):
    with pytest.raises(GatewayMismatchError, match="as bytes"):
        await client.pay_and_call(scripted.url + "/x", "POST", content=io.BytesIO(WHOLE))
    assert scripted.paid == []
