"""A real gateway for the stock clients, and our own client on the same key."""

from tests.sdk.conftest import client, gateway, key, make_client, net, relay, start_gateway, upstream

__all__ = ["client", "gateway", "key", "make_client", "net", "relay", "start_gateway", "upstream"]
