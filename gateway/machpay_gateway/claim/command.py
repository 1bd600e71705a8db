"""The `claim` command: arguments, the table or JSON it prints, exit codes. Progress and errors go to stderr."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from solders.pubkey import Pubkey

from machpay.chain.accounts import CHANNEL_LENGTH, GatewayAccount
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.keys import SigningKey
from machpay_gateway.claim.plan import Proof, Wishes
from machpay_gateway.claim.positions import read_log, read_positions
from machpay_gateway.claim.work import Outcome, Parties, carry_out, lamports_needed, plan
from machpay_gateway.commands.base import (
    AGAIN,
    OK,
    REFUSED,
    Commands,
    add_command,
    agents_argument,
    complain,
    count_argument,
    load_key,
    log_arguments,
    say,
    settings_of,
)
from machpay_gateway.errors import ConfigError
from machpay_gateway.settings import Settings

_ABOUT: Final = """\
Be paid for what agents signed without the relayer. Reads the gateway's log,
which may be in use, and asks the chain. The first run claims the highest
voucher of every channel; after the network's claim delay a run with --execute
pays the vendor's token account. It can be repeated: a pending claim is left
alone, because a new one would restart its delay. Amounts are atomic units.

A claim takes all that an agent signed, also what was not served: compare the
columns "served" and "signed" first (--dry-run).
"""
_PROGRESS_EVERY: Final = 20


def add_claim_command(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `claim` to the command's parser."""
    command = add_command(
        commands,
        "claim",
        run_claim_command,
        help="be paid without the relayer: claim on-chain what agents signed",
        about=_ABOUT,
    )
    log_arguments(command)
    agents_argument(command)
    command.add_argument(
        "--minimum",
        type=_positive,
        default=1,
        metavar="ATOMIC",
        help="claim only channels where at least this much can be had; default %(default)s",
    )
    command.add_argument("--execute", action="store_true", help="execute claims whose delay has passed")
    command.add_argument(
        "--replace",
        action="store_true",
        help="raise a pending claim to a higher voucher, restarting its delay",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done; send nothing")
    command.add_argument(
        "--vendor-keypair", metavar="FILE", help="claim with the vendor's key, as after a revocation"
    )
    command.add_argument(
        "--fee-payer", metavar="FILE", help="pays fees and the rent of new channels; default: who claims"
    )


def run_claim_command(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `LogError` and its kinds."""
    settings = settings_of(options)
    proofs = _chosen(read_log(settings), options.agent)
    if not any(proof.voucher for proof in proofs) and not options.agent:
        say(options, {"channels": []}, "no vouchers in the log: there is nothing to claim")
        return OK
    try:
        return asyncio.run(_claim(settings, options, proofs))
    except KeyboardInterrupt:
        complain(options, "interrupted; what was sent may land, run it again to see", "Interrupted")
        return AGAIN
    except ChainError as error:
        complain(options, f"the chain could not be asked: {error}", type(error).__name__)
        return AGAIN


async def _claim(settings: Settings, options: argparse.Namespace, proofs: Sequence[Proof]) -> int:
    wishes = Wishes(options.minimum, options.execute, options.replace)
    gateway = settings.key.public
    async with ChainClient(settings.rpc_url, settings.network) as chain:
        parties = await _parties(chain, settings, options)
        positions = await read_positions(chain, gateway, proofs, _progress("read", len(proofs)))
        now = await chain.unix_timestamp()
        outcomes = plan(positions, parties, wishes, now)
        needed, poor = 0, None
        if work := sum(outcome.planned is not None for outcome in outcomes):
            needed = lamports_needed(outcomes, parties, await chain.rent(CHANNEL_LENGTH))
            poor = await _too_poor(chain, parties, needed)
            if not poor and not options.dry_run:
                await carry_out(chain, outcomes, parties, wishes, now, _progress("done", work))
    result = {
        "gateway": str(gateway),
        "vendor": str(parties.vendor),
        "payout": str(parties.payout),
        "fee_payer": str(parties.payer.pubkey()),
        "dry_run": options.dry_run,
        "time": now,
        "lamports_needed": needed,
        "channels": [_row(settings, outcome) for outcome in outcomes],
        "error": poor,
    }
    say(options, result, _table(outcomes, acted=not (options.dry_run or poor)))
    if poor:
        complain(options, poor, "TooLittleSol")
    if any(outcome.unknown for outcome in outcomes):
        return AGAIN
    return REFUSED if poor or any(outcome.failure for outcome in outcomes) else OK


async def _parties(chain: ChainClient, settings: Settings, options: argparse.Namespace) -> Parties:
    """Who is involved, checked against the chain."""
    genesis = await chain.genesis_hash()
    if genesis != settings.network.domain:
        raise ConfigError(
            f"network.rpc_url is cluster {genesis}, the gateway's is {settings.network.domain} (network.domain)"
        )
    account = await chain.gateway(settings.key.public)
    if account is None:
        raise ConfigError(f"gateway {settings.key.pubkey} is not registered on this network")
    if account.vendor != settings.vendor:
        raise ConfigError(f"gateway.vendor is {settings.vendor}; on-chain the gateway is {account.vendor}'s")
    vendor = await chain.vendor(account.vendor)
    if vendor is None:
        raise ConfigError(f"vendor {account.vendor} is not registered on this network")
    claimant = _claimant(settings, options, account)
    payer = load_key(options.fee_payer, "--fee-payer") if options.fee_payer else claimant or settings.key
    return Parties(
        network=settings.network,
        gateway=settings.key.public,
        vendor=account.vendor,
        payout=vendor.payout,
        claimant=None if claimant is None else claimant.keypair(),
        payer=payer.keypair(),
    )


def _claimant(settings: Settings, options: argparse.Namespace, account: GatewayAccount) -> SigningKey | None:
    if options.vendor_keypair:
        key = load_key(options.vendor_keypair, "--vendor-keypair")
        if key.public != account.vendor:
            raise ConfigError(f"{options.vendor_keypair} is {key.pubkey}, the vendor is {account.vendor}")
        return key
    return None if account.revoked else settings.key


async def _too_poor(chain: ChainClient, parties: Parties, needed: int) -> str | None:
    """Why the fee payer cannot pay for everything; None if it can."""
    payer = parties.payer.pubkey()
    # An account that would be left with less than the rent of an empty one may not pay at all.
    required = needed + await chain.rent(0)
    has = await chain.lamports(payer)
    if has >= required:
        return None
    return (
        f"fee payer {payer} has {has} lamports and needs {required} for fees and the rent of new channels; nothing was "
        "sent. Send it SOL, name another with --fee-payer, or choose fewer channels with --agent or --minimum"
    )


def _chosen(known: dict[Pubkey, Proof], agents: Sequence[Pubkey]) -> list[Proof]:
    """Those that were named, else all, the largest voucher first. A named one needs no voucher to be executed."""
    if agents:
        return [known.get(agent, Proof(agent, None, 0)) for agent in dict.fromkeys(agents)]
    return sorted(
        known.values(), key=lambda proof: -proof.voucher.cumulative if proof.voucher is not None else 0
    )


# ---- output


def _row(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    position = outcome.after
    agent = position.proof.agent
    return {
        "agent": str(agent),
        "channel": str(settings.network.channel(agent, settings.key.public)),
        "served_atomic": position.proof.served,
        "signed_atomic": position.signed,
        "settled_atomic": position.settled,
        "owed_atomic": position.owed,
        "claimable_atomic": position.claimable,
        "pending_atomic": position.pending,
        "unlocks_at": position.unlocks_at or None,
        "planned": outcome.planned,
        "sent": [{"step": step, "transaction": signature} for step, signature in outcome.sent],
        "paid_atomic": outcome.paid,
        "note": outcome.note,
        "failure": outcome.failure,
    }


_COLUMNS: Final = ("agent", "served", "signed", "settled", "claimable", "pending", "unlocks", "")


def _table(outcomes: Sequence[Outcome], *, acted: bool) -> str:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for outcome in outcomes:
        position = outcome.after
        rows.append(
            (
                str(position.proof.agent),
                *map(str, (position.proof.served, position.signed, position.settled, position.claimable)),
                str(position.pending) if position.pending else "-",
                to_rfc3339(position.unlocks_at) if position.pending else "-",
                _words(outcome, acted=acted),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            text.ljust(width) if column in (0, 6, 7) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _words(outcome: Outcome, *, acted: bool) -> str:
    parts = []
    for step, signature in outcome.sent:
        did = f"executed, settled rose by {outcome.paid}" if step == "execute" else "claimed"
        parts.append(f"{did} ({signature})")
    if outcome.planned and not acted:
        parts.append(f"would {outcome.planned}")
    if outcome.after.owed:
        parts.append(f"{outcome.after.owed} is owed: the payout account could not receive it")
    # After a claim the plain reason would only say again that it is pending.
    last = outcome.failure or ("" if any(step == "claim" for step, _ in outcome.sent) else outcome.note)
    return "; ".join([*parts, last] if last else parts)


def _progress(what: str, total: int) -> Callable[[int], None]:
    """A line on stderr now and then, for logs of many channels."""

    def tell(done: int) -> None:
        if total > _PROGRESS_EVERY and (done % _PROGRESS_EVERY == 0 or done == total):
            print(f"machpay-gateway: {what} {done} of {total} channels", file=sys.stderr, flush=True)

    return tell


# ---- arguments


def _positive(text: str) -> int:
    number = count_argument(text)
    if number < 1:
        raise argparse.ArgumentTypeError("the minimum is at least 1 atomic unit")
    return number
