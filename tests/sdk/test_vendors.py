"""An allow-list or a budget of vendors holds against a gateway that says it belongs to another vendor."""

import asyncio
from typing import Any

import pytest
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import PaymentError, x402HttpxClient
from x402.http.clients.requests import PaymentError as RequestsPaymentError
from x402.http.clients.requests import x402_requests

from machpay import Budgets, MachPayClient, MachPayConfig
from machpay.client.errors import GatewayMismatchError, NotAllowedError
from machpay.x402 import MachPayScheme, MachPaySchemeSync
from machpay.x402.client import NETWORKS
from tests.sdk.model import AGENT, STRANGER
from tests.sdk.scripted import PRICE, Scripted, changed
from tests.support.chain import LocalChain, local_chain

__all__ = ["local_chain"]


@pytest.fixture
async def server(local_chain: LocalChain):
    """The gateway of vendor `atlas`, which says that it is `lexicon`'s."""
    server = Scripted(key=local_chain.keys.get("gateway-atlas"), network=local_chain.network)
    server.change_offer = changed(vendor=local_chain.keys.get("vendor-lexicon").public)
    await server.start()
    yield server
    await server.stop()


def a_config(chain: LocalChain, vendor: str, **settings: Any) -> MachPayConfig:
    fields: dict[str, Any] = {"rpc_url": chain.rpc_url, "cosigns": False, **settings}
    budgets = Budgets(allowed_vendors=[chain.keys.get(vendor).pubkey])
    return MachPayConfig(key=AGENT, network=chain.network, budgets=budgets, **fields)


async def test_a_gateway_that_names_a_vendor_it_does_not_belong_to_is_not_paid(server, local_chain):
    async with MachPayClient(a_config(local_chain, "vendor-lexicon")) as client:
        with pytest.raises(GatewayMismatchError, match="belongs to"):
            await client.pay_and_call(server.url + "/x")
    assert server.paid == []


async def test_its_own_vendor_is_paid(server, local_chain):
    server.change_offer = changed(vendor=local_chain.keys.get("vendor-atlas").public)
    async with MachPayClient(a_config(local_chain, "vendor-atlas")) as client:
        for _ in range(2):
            assert (await client.pay_and_call(server.url + "/x")).charged == PRICE
        # What was read once is not asked again, and a vendor never changes.
        server.change_offer = changed(vendor=STRANGER.public)
        with pytest.raises(NotAllowedError):
            await client.pay_and_call(server.url + "/y")
    assert len(server.paid) == 2


async def test_what_cannot_be_read_is_not_allowed(server, local_chain):
    config = a_config(local_chain, "vendor-lexicon", rpc_url="http://127.0.0.1:9")
    async with MachPayClient(config) as client:
        with pytest.raises(NotAllowedError, match="cannot be read"):
            await client.pay_and_call(server.url + "/x")
    assert server.paid == []


async def test_an_unregistered_gateway_is_nobodys(server, local_chain):
    server.key = STRANGER
    async with MachPayClient(a_config(local_chain, "vendor-lexicon")) as client:
        with pytest.raises(GatewayMismatchError, match="not registered"):
            await client.pay_and_call(server.url + "/x")
    assert server.paid == []


async def test_without_a_rule_about_vendors_the_chain_is_not_asked(server, local_chain):
    config = MachPayConfig(
        key=AGENT, network=local_chain.network, rpc_url="http://127.0.0.1:9", cosigns=False
    )
    async with MachPayClient(config) as client:
        assert (await client.pay_and_call(server.url + "/x")).charged == PRICE


async def test_the_stock_clients_do_not_pay_it_either(server, local_chain):
    config = a_config(local_chain, "vendor-lexicon")
    async with x402HttpxClient(x402Client().register(NETWORKS, MachPayScheme(config))) as http:
        with pytest.raises(PaymentError) as caught:
            await http.get(server.url + "/x")
    assert isinstance(caught.value.__cause__, GatewayMismatchError)

    def blocking() -> None:
        with x402_requests(x402ClientSync().register(NETWORKS, MachPaySchemeSync(config))) as session:
            session.get(server.url + "/x")

    with pytest.raises(RequestsPaymentError) as caught_too:
        await asyncio.to_thread(blocking)
    assert isinstance(caught_too.value.__cause__, GatewayMismatchError)
    assert server.paid == []
