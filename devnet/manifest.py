"""`var/demo.json` and `var/demo.env`: how other programs and new shells join a running demo.

The JSON's format is an interface (docs/demo.md); the env file holds what `manage.py` needs to talk to the demo from
another terminal. Both exist only while the demo runs.
"""

import json
import os
from pathlib import Path
from typing import Any

from devnet.network import LocalNetwork
from devnet.offers import OFFERS, Offer


def describe(network: LocalNetwork) -> dict[str, Any]:
    """The content of `demo.json` for a started network."""
    chain = network.network
    if chain is None:
        raise RuntimeError("the network has not been started")
    environment = network.environment()
    return {
        "api_url": network.url("web"),
        "console_url": network.url("web"),
        "live_url": network.url("web"),
        "receiver_url": network.url("receiver"),
        "relayer_url": network.url("relayer"),
        "rpc_url": network.url("chain"),
        "network": chain.caip2,
        "program_id": str(chain.program_id),
        "mint": str(chain.mint),
        "domain": str(chain.domain),
        "gateways": [_gateway(network, offer) for offer in OFFERS],
        "facilitator": {
            "url": network.url("relayer") + "/facilitator",
            "vendors": [
                {"vendor": vendor, "gateway": gateway} for vendor, gateway in network.hosted_gateways.items()
            ],
        },
        "agents": [
            {"agent": network.keys.get(name).pubkey, "keypair_file": str(network.keys.path(name))}
            for name in network.agent_names
        ],
        "operator": {"username": "operator", "password": network.operator_password()},
        "database_url": environment["DATABASE_URL"],
        "redis_url": environment["REDIS_URL"],
    }


def _gateway(network: LocalNetwork, offer: Offer) -> dict[str, Any]:
    path = offer.sample_path.split("?")[0]
    route = next(r for r in offer.routes if r.method == "GET" and path.startswith(r.path))
    return {
        "gateway": network.keys.get(offer.gateway).pubkey,
        "vendor": network.keys.get(f"vendor-{offer.vendor}").pubkey,
        "url": network.url(offer.gateway),
        "paid_path": offer.sample_path,
        "method": route.method,
        "price_atomic": route.price_atomic,
    }


class Manifest:
    """The two files of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.json_path = data_dir / "demo.json"
        self.env_path = data_dir / "demo.env"

    def write(self, network: LocalNetwork) -> None:
        _replace(self.env_path, "".join(f"{name}={value}\n" for name, value in network.environment().items()))
        _replace(self.json_path, json.dumps(describe(network), indent=2) + "\n")

    def remove(self) -> None:
        self.json_path.unlink(missing_ok=True)
        self.env_path.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Write atomically and privately: both files hold passwords."""
    partial = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
