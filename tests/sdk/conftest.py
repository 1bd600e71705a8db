"""A real gateway with its upstream, agents for it, and a relay that can break the line between them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from machpay import MachPayClient, MachPayConfig
from machpay.protocol.keys import SigningKey
from tests.gateway.conftest import RunningGateway, gateway, net, start_gateway, upstream
from tests.gateway.factories import network
from tests.sdk.relay import Relay

__all__ = ["gateway", "net", "start_gateway", "upstream"]

ClientMaker = Callable[..., Any]


@pytest.fixture
def key() -> SigningKey:
    """The agent's key; every client of a test holds it."""
    return SigningKey.generate()


@pytest.fixture
async def make_client(key: SigningKey) -> AsyncIterator[ClientMaker]:
    """Open a client of the test's agent; each stands for a process of its own."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> MachPayClient:
            fields: dict[str, Any] = {"key": key, "network": network(), "timeout_s": 60.0, **settings}
            return await stack.enter_async_context(MachPayClient(MachPayConfig(**fields)))

        yield make


@pytest.fixture
async def client(make_client: ClientMaker) -> MachPayClient:
    opened: MachPayClient = await make_client()
    return opened


@pytest.fixture
async def relay(gateway: RunningGateway) -> AsyncIterator[Relay]:
    async with Relay(gateway.url) as opened:
        yield opened
