"""`machpay-gateway register`: on-chain what is missing, then the relayer, until it knows the gateway."""

import argparse
import asyncio
import shlex
from collections.abc import Sequence
from typing import Any, Final

from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError, ConfirmationTimeout, RpcUnavailable
from machpay.protocol.keys import SigningKey
from machpay_gateway.commands.base import (
    AGAIN,
    OK,
    REFUSED,
    UNFINISHED,
    Commands,
    add_command,
    complain,
    count_argument,
    load_key,
    pubkey_argument,
    say,
    workers_argument,
)
from machpay_gateway.errors import ConfigError, Refused
from machpay_gateway.registration import Standing, announce, lamports_needed, read_standing, register
from machpay_gateway.settings import Settings, load_settings
from machpay_gateway.siblings.family import identities, with_count

WAIT_S: Final = 90
LAMPORTS_PER_SOL: Final = 1_000_000_000
_ABOUT: Final = """\
Register this gateway: the vendor on-chain if it is not there, the gateway
on-chain (signed by the vendor's and the gateway's key), and then at the relayer,
which takes it once the chain is final. Everything looks before it acts: run it
again whenever you like. The vendor's key is needed only while something is
missing on-chain, and is used to sign here and nowhere else.

The fee payer (the vendor, or --fee-payer) needs SOL for fees and the rent of the
new accounts: about 0.005 SOL for a vendor, 0.002 SOL for a gateway.
"""
_EXAMPLES: Final = """\
examples:
  machpay-gateway register --vendor-keypair vendor.json --dry-run
  machpay-gateway register --vendor-keypair vendor.json
  machpay-gateway register --relayer-only       the second half alone
"""


def add_register_command(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `register` to the parser."""
    command = add_command(
        commands,
        "register",
        run_register,
        help="make the gateway known on-chain and to the relayer",
        about=_ABOUT,
        examples=_EXAMPLES,
    )
    command.add_argument(
        "--vendor-keypair", metavar="FILE", help="the vendor's key; needed while the chain lacks something"
    )
    command.add_argument("--fee-payer", metavar="FILE", help="pays fees and rent; default: the vendor")
    command.add_argument(
        "--airdrop",
        action="store_true",
        help="ask the cluster for SOL if the fee payer lacks it; test clusters only",
    )
    command.add_argument(
        "--payout",
        type=pubkey_argument,
        metavar="ACCOUNT",
        help="token account that a new vendor is paid to; default: the vendor's associated one, created if missing",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done; send nothing")
    command.add_argument("--relayer-only", action="store_true", help="only the second half: tell the relayer")
    command.add_argument(
        "--wait",
        type=count_argument,
        default=WAIT_S,
        metavar="SECONDS",
        help="how long the relayer may take to know it; default %(default)s",
    )
    workers_argument(command)


def run_register(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `Refused`."""
    settings = with_count(load_settings(options.config), options.workers)
    try:
        return asyncio.run(_register(settings, options))
    except (ConfirmationTimeout, RpcUnavailable) as error:
        complain(options, f"{error}; what was sent may have landed: run it again", type(error).__name__)
        return AGAIN
    except ChainError as error:
        complain(options, error)
        return REFUSED


async def _register(settings: Settings, options: argparse.Namespace) -> int:
    keys = identities(settings)
    result: dict[str, Any] = {
        "vendor": str(settings.vendor),
        "gateways": [key.pubkey for key in keys],
        "dry_run": options.dry_run,
        "transactions": [],
    }
    lines = [f"vendor {settings.vendor}"]
    if not options.relayer_only:
        await _on_chain(settings, options, keys, result, lines)
    if options.dry_run:
        say(options, result, "\n".join(lines))
        return OK
    reasons = await asyncio.gather(*(announce(settings, key, wait_s=options.wait) for key in keys))
    waiting = {key.pubkey: reason for key, reason in zip(keys, reasons, strict=True) if reason is not None}
    result["relayer"] = "waiting" if waiting else "registered"
    if not waiting:
        lines.append(f"the relayer at {settings.relayer_url} knows the gateway")
        say(options, result, "\n".join(lines))
        return OK
    finish = finishing(options)
    result |= {"reasons": waiting, "finish": finish}
    say(options, result, "\n".join(lines))
    for gateway, reason in waiting.items():
        complain(
            options, f"{gateway} is registered on-chain, but not yet at the relayer: {reason}", "Unfinished"
        )
    if not options.as_json:
        complain(options, f"to finish, run:\n  {finish}", "Unfinished")
    return UNFINISHED


def finishing(options: argparse.Namespace) -> str:
    """The command that tells the relayer of the same identities again."""
    workers = "" if options.workers is None else f" --workers {options.workers}"
    return f"machpay-gateway register --config {shlex.quote(options.config)} --relayer-only{workers}"


async def _on_chain(
    settings: Settings,
    options: argparse.Namespace,
    keys: Sequence[SigningKey],
    result: dict[str, Any],
    lines: list[str],
) -> None:
    async with ChainClient(settings.rpc_url, settings.network) as chain:
        standing = await read_standing(chain, settings, [key.public for key in keys], options.payout)
        needed = await lamports_needed(chain, standing)
        result |= {
            "payout": str(standing.payout),
            "vendor_was": "registered" if standing.vendor_registered else "missing",
            "gateways_were": {str(gateway): state for gateway, state in standing.gateways.items()},
            "lamports_needed": needed,
        }
        lines += _described(standing, acted=not options.dry_run)
        for gateway, state in standing.gateways.items():
            if state == "revoked":
                raise Refused(
                    f"gateway {gateway} is revoked for ever; `machpay-gateway init` with another --key"
                )
        if standing.is_complete:
            return
        if options.dry_run:
            lines.append(f"it would cost {needed / 1e9:.6f} SOL; nothing was sent")
            return
        vendor = _vendor_key(settings, options)
        payer = load_key(options.fee_payer, "--fee-payer") if options.fee_payer else vendor
        await _provide(chain, payer.public, needed, airdrop=options.airdrop)
        result["transactions"] = await register(
            chain,
            settings,
            standing,
            vendor=vendor.keypair(),
            gateways={key.public: key.keypair() for key in keys},
            payer=payer.keypair(),
        )


def _described(standing: Standing, *, acted: bool) -> list[str]:
    verb = "registered now" if acted else "would be registered"
    lines = [f"  on-chain {verb if not standing.vendor_registered else 'already'}, paid to {standing.payout}"]
    lines += [
        f"gateway {gateway}: {verb if state == 'missing' else state}"
        for gateway, state in standing.gateways.items()
    ]
    return lines


def _vendor_key(settings: Settings, options: argparse.Namespace) -> SigningKey:
    if not options.vendor_keypair:
        raise ConfigError(
            "--vendor-keypair is needed: something is missing on-chain and the vendor has to sign it"
        )
    key = load_key(options.vendor_keypair, "--vendor-keypair")
    if key.public != settings.vendor:
        raise ConfigError(f"--vendor-keypair is {key.pubkey}, gateway.vendor is {settings.vendor}")
    return key


async def _provide(chain: ChainClient, payer: Pubkey, needed: int, *, airdrop: bool) -> None:
    """See that the fee payer has `needed` lamports. Raises `Refused` if not."""
    # An account that would be left with less than the rent of an empty one may not pay at all.
    required = needed + await chain.rent(0)
    has = await chain.lamports(payer)
    if has >= required:
        return
    if not airdrop:
        raise Refused(
            f"fee payer {payer} has {has} lamports and needs {required}; send it SOL, name another with --fee-payer, "
            "or on a test cluster use --airdrop"
        )
    try:
        await chain.airdrop(payer, max(required - has, LAMPORTS_PER_SOL))
    except RpcUnavailable as error:
        raise Refused(f"this cluster gives no SOL away: {error}") from error
