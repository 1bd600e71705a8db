"""`python -m machpay.x402 host`: registers the gateway that a facilitator hosts for a vendor with a stock server."""

import argparse
import asyncio
import json
import sys
from typing import Final

from solders.hash import Hash

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.chain.hosting import FacilitatorError, facilitated_network, register_hosted_gateway
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey

OK, FAILED, MISUSED = range(3)
_ABOUT: Final = """\
Register, once, the gateway whose key the facilitator holds for you, so that your
stock x402 server can take machpay-bond payments. The vendor must be registered
on-chain and hold about 0.002 SOL for the rent. Safe to run again.

exit codes: 0 registered, 1 the facilitator or the chain did not let it happen,
2 the arguments or the key cannot be used
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m machpay.x402", description="MachPay for stock x402 servers"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    host = commands.add_parser(
        "host",
        help="register the gateway that a facilitator hosts for a vendor",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    host.add_argument(
        "--facilitator", required=True, metavar="URL", help="e.g. https://relayer.example/facilitator"
    )
    host.add_argument("--rpc", required=True, metavar="URL", help="a Solana RPC server of the same cluster")
    host.add_argument("--vendor-keypair", required=True, metavar="FILE", help="signs here and nowhere else")
    host.add_argument("--json", action="store_true", dest="as_json", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    try:
        vendor = SigningKey.load(options.vendor_keypair)
    except (OSError, MalformedError) as error:
        print(f"machpay.x402: --vendor-keypair: {error}", file=sys.stderr)
        return MISUSED
    try:
        gateway = asyncio.run(_host(options.facilitator, options.rpc, vendor))
    except (FacilitatorError, ChainError) as error:
        print(f"machpay.x402: {error}", file=sys.stderr)
        return FAILED
    result = {"vendor": vendor.pubkey, "gateway": gateway}
    print(json.dumps(result) if options.as_json else f"vendor {vendor.pubkey} is served by gateway {gateway}")
    return OK


async def _host(facilitator_url: str, rpc_url: str, vendor: SigningKey) -> str:
    network = await facilitated_network(facilitator_url)
    async with ChainClient(rpc_url, network) as chain:
        genesis: Hash = await chain.genesis_hash()
        if genesis != network.domain:
            raise FacilitatorError(f"--rpc is cluster {genesis}, the facilitator's is {network.domain}")
        return str(await register_hosted_gateway(chain, network, facilitator_url, vendor))


if __name__ == "__main__":
    sys.exit(main())
