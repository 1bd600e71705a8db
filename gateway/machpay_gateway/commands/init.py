"""`machpay-gateway init`: a new gateway's key and configuration, from flags, questions, or both."""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.clusters import CLUSTERS
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay_gateway.commands.base import (
    OK,
    Commands,
    add_command,
    complain,
    load_key,
    port_argument,
    pubkey_argument,
    say,
)
from machpay_gateway.errors import ConfigError
from machpay_gateway.settings import parse_settings
from machpay_gateway.setup.files import (
    key_at,
    refuse_to_overwrite,
    take_over,
    to_toml,
    would_load,
    write_configuration,
)
from machpay_gateway.setup.networks import Found, Wanted, described, find_network
from machpay_gateway.setup.offers import OfferedRoute, parse_route
from machpay_gateway.urls import parse_url

T = TypeVar("T")

_ABOUT: Final = """\
Write a new gateway's files: its key (readable by you only) and gateway.toml.
What flags do not say is asked for when this runs in a terminal. An existing key
is used as it is and never overwritten; an existing gateway.toml is replaced
with --force only.

The network is read from --network (demo: var/demo.json of a running `make
demo`; a public cluster; or any JSON file in that form), from the relayer
(its /network), and compared with the chain.
"""
_EXAMPLES: Final = """\
examples:
  machpay-gateway init
  machpay-gateway init --network demo --vendor-keypair vendor.json \\
      --upstream http://127.0.0.1:9000 --price "GET /embed=0.001 Embed one text"
  machpay-gateway init --network mainnet --relayer-url https://relayer.example \\
      --receiver-url https://receiver.example --vendor <pubkey> --from demo.toml
"""


def add_init_command(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `init` to the parser."""
    command = add_command(
        commands,
        "init",
        run_init,
        help="write a new gateway's key and gateway.toml",
        about=_ABOUT,
        examples=_EXAMPLES,
    )
    command.add_argument(
        "--force", action="store_true", help="replace the configuration; the old one becomes .bak"
    )
    command.add_argument("--dry-run", action="store_true", help="print the configuration; write nothing")
    asking = command.add_mutually_exclusive_group()
    asking.add_argument("--interactive", action="store_true", help="ask also when stdin is no terminal")
    asking.add_argument("--no-input", action="store_true", help="never ask; what is missing is an error")

    keys = command.add_argument_group("keys")
    keys.add_argument(
        "--key", metavar="FILE", help="the gateway's key; default gateway-key.json beside the configuration"
    )
    keys.add_argument(
        "--vendor", type=pubkey_argument, metavar="PUBKEY", help="who is paid: your wallet's public key"
    )
    keys.add_argument(
        "--vendor-keypair", metavar="FILE", help="the same, from a key file; only its public half is used"
    )
    keys.add_argument(
        "--create-vendor-key",
        metavar="FILE",
        help="draw a new vendor key into FILE (0600) if it does not exist",
    )

    network = command.add_argument_group("network")
    network.add_argument(
        "--network",
        metavar="NAME|FILE",
        help=f"demo, {', '.join(CLUSTERS)}, or a JSON file like var/demo.json",
    )
    network.add_argument("--rpc-url", metavar="URL", help="Solana RPC")
    network.add_argument("--relayer-url", metavar="URL", help="takes the payments")
    network.add_argument("--receiver-url", metavar="URL", help="takes the events")
    network.add_argument("--program-id", type=pubkey_argument, metavar="PUBKEY", help="the MachPay program")
    network.add_argument("--mint", type=pubkey_argument, metavar="PUBKEY", help="the token; default USDC")
    network.add_argument("--domain", type=pubkey_argument, metavar="HASH", help="the cluster's genesis hash")
    network.add_argument("--offline", action="store_true", help="ask neither relayer nor chain")

    offer = command.add_argument_group("what is sold")
    offer.add_argument(
        "--from",
        dest="template",
        metavar="FILE",
        help="take routes, upstream and texts from another gateway.toml",
    )
    offer.add_argument("--upstream", metavar="URL", help="your server")
    offer.add_argument(
        "--price",
        action="append",
        default=[],
        metavar='"METHOD /PATH=USDC TEXT"',
        help="a priced route; * at the end of the path for everything below it; can be repeated",
    )
    offer.add_argument(
        "--free", action="append", default=[], metavar='"METHOD /PATH"', help="a free route; can be repeated"
    )
    offer.add_argument("--name", metavar="TEXT", help="what the service is called")
    offer.add_argument("--description", metavar="TEXT", help="one sentence about it")
    offer.add_argument(
        "--category", action="append", default=[], metavar="WORD", help="for search; can be repeated"
    )

    place = command.add_argument_group("where it runs")
    place.add_argument("--host", metavar="HOST", help="listen here; default 127.0.0.1")
    place.add_argument("--port", type=port_argument, metavar="PORT", help="default 8402; 0 takes a free one")
    place.add_argument("--public-url", metavar="URL", help="how clients reach it")
    place.add_argument(
        "--data-dir", metavar="DIR", help="the payment log; default data beside the configuration"
    )


def run_init(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `Refused`, `OSError`."""
    config = Path(options.config)
    if not options.dry_run:
        refuse_to_overwrite(config, force=options.force)
    tables = take_over(Path(options.template)) if options.template else {"gateway": {}}
    if options.interactive or (not options.no_input and sys.stdin.isatty()):
        _ask(options, tables)
    found = asyncio.run(find_network(_wanted(options), offline=options.offline))
    vendor, vendor_file, vendor_created = _vendor(options)
    tables = _tables(options, tables, found, vendor)
    folder = config.resolve().parent
    text = to_toml(tables)
    if options.dry_run:
        would_load(tables, folder)
        say(options, {"dry_run": True, "config": str(config), "text": text, "notes": found.notes}, text)
        return OK
    key_file = folder / tables["gateway"]["keypair_file"]
    key, created = key_at(key_file)
    try:
        parse_settings(text, folder)
        write_configuration(config, text)
    except (ConfigError, OSError):
        # The key was made for this configuration only; nobody knows it yet.
        if created:
            key_file.unlink()
        raise
    for note in found.notes:
        complain(options, note, "note")
    following = _next(config, vendor_file)
    result = {
        "config": str(config),
        "gateway": key.pubkey,
        "key_file": str(key_file),
        "key_created": created,
        "vendor": str(vendor),
        "vendor_keypair": vendor_file,
        "vendor_key_created": vendor_created,
        "network": found.network.caip2,
        "program_id": str(found.network.program_id),
        "mint": str(found.network.mint),
        "notes": list(found.notes),
        "next": following,
    }
    lines = [
        f"wrote {config}",
        f"gateway {key.pubkey}, its key is {'new' if created else 'the one'} in {key_file}: keep a copy of it",
        f"vendor  {vendor}"
        + (f", its key is new in {vendor_file}: keep a copy of it" if vendor_created else ""),
        f"network {found.network.caip2}, program {found.network.program_id}",
        "",
        "next:",
        *(f"  {command}" for command in following),
    ]
    say(options, result, "\n".join(lines))
    return OK


def _wanted(options: argparse.Namespace) -> Wanted:
    said = Wanted(
        rpc_url=_url(options.rpc_url, "--rpc-url", query=True),
        relayer_url=_url(options.relayer_url, "--relayer-url"),
        receiver_url=_url(options.receiver_url, "--receiver-url"),
        program_id=options.program_id,
        mint=options.mint,
        domain=None if options.domain is None else Hash(bytes(options.domain)),
    )
    if options.network is None:
        return said
    found = described(options.network)
    if said.domain is not None and found.domain is not None and said.domain != found.domain:
        raise ConfigError(f"--domain is not the genesis hash of --network {options.network}")
    return said.filled(found)


def _url(text: str | None, flag: str, *, query: bool = False) -> str | None:
    return None if text is None else parse_url(text, flag, query=query)


def _vendor(options: argparse.Namespace) -> tuple[Pubkey, str | None, bool]:
    """Who is paid, the file of its key if one was named, and whether that is new."""
    given = [each for each in (options.vendor, options.vendor_keypair, options.create_vendor_key) if each]
    if len(given) != 1:
        raise ConfigError("exactly one of --vendor, --vendor-keypair and --create-vendor-key is needed")
    if options.vendor:
        return options.vendor, None, False
    if options.vendor_keypair:
        return load_key(options.vendor_keypair, "--vendor-keypair").public, options.vendor_keypair, False
    path = Path(options.create_vendor_key)
    if options.dry_run and not path.exists():
        return SigningKey.generate().public, str(path), False
    key, created = key_at(path)
    return key.public, str(path), created


def _tables(
    options: argparse.Namespace, offer: dict[str, Any], found: Found, vendor: Pubkey
) -> dict[str, Any]:
    """The whole configuration."""
    gateway = {
        "keypair_file": options.key or "gateway-key.json",
        "vendor": str(vendor),
        "data_dir": options.data_dir or "data",
        **offer["gateway"],
        **_given(options, "host", "port", "public_url", "name", "description"),
    }
    if options.key:
        # Relative paths in the file start at its folder, those of flags at the working directory.
        gateway["keypair_file"] = str(Path(options.key).resolve())
    if options.data_dir:
        gateway["data_dir"] = str(Path(options.data_dir).resolve())
    if options.category:
        gateway["categories"] = options.category
    network = {
        "rpc_url": found.rpc_url,
        "program_id": str(found.network.program_id),
        "mint": str(found.network.mint),
        "domain": str(found.network.domain),
        "relayer_url": found.relayer_url,
        "receiver_url": found.receiver_url,
    }
    upstream = dict(offer.get("upstream", {}))
    if options.upstream:
        upstream["url"] = parse_url(options.upstream, "--upstream")
    if "url" not in upstream:
        raise ConfigError("--upstream is needed: the address of your server")
    routes = [*offer.get("routes", []), *(route.to_table() for route in _routes(options))]
    if not routes and upstream.get("unlisted") != "free":
        raise ConfigError("at least one --price or --free is needed: nothing would be served")
    rest = {name: table for name, table in offer.items() if name not in ("gateway", "upstream", "routes")}
    return {"gateway": gateway, "network": network, "upstream": upstream, **rest, "routes": routes}


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _routes(options: argparse.Namespace) -> list[OfferedRoute]:
    return [
        *(parse_route(text) for text in options.price),
        *(parse_route(text, free=True) for text in options.free),
    ]


def _next(config: Path, vendor_file: str | None) -> list[str]:
    at = f"--config {shlex.quote(str(config))}"
    vendor = shlex.quote(vendor_file) if vendor_file else "VENDOR-KEY-FILE"
    return [
        f"machpay-gateway register {at} --vendor-keypair {vendor}",
        f"machpay-gateway check {at}",
        f"machpay-gateway run {at}",
    ]


# ---- questions


def _ask(options: argparse.Namespace, tables: dict[str, Any]) -> None:
    """Ask for what neither flags nor `--from` say, writing the answers into `options`."""
    if options.network is None and options.relayer_url is None:
        options.network = _answer("network: demo, mainnet, devnet or a JSON file", "demo", _known_network)
    known = described(options.network) if options.network else Wanted()
    for name, question in (("relayer_url", "relayer"), ("receiver_url", "receiver")):
        if getattr(options, name) is None and getattr(known, name) is None:
            setattr(options, name, _answer(f"URL of the {question}", None, _checked_url))
    if not (options.vendor or options.vendor_keypair or options.create_vendor_key):
        _answer(
            "vendor (who is paid): public key, or key file; a new file is created",
            "vendor-key.json",
            lambda text: _take_vendor(options, text),
        )
    upstream = tables.get("upstream", {})
    if options.upstream is None and "url" not in upstream:
        options.upstream = _answer("URL of your server", "http://127.0.0.1:8000", _checked_url)
    if options.name is None and "name" not in tables["gateway"]:
        options.name = _answer("name of the service", "", str)
    if not options.price and not options.free and not tables.get("routes"):
        while True:
            # Without any route there would be nothing to serve, and the answers before were for nothing.
            ends, default = ("; empty ends", "") if options.price else ("", None)
            example = "GET /embed=0.001 Embed one text"
            text = _answer(f'a route and its price in USDC, like "{example}"{ends}', default, _checked_route)
            if not text:
                break
            options.price.append(text)
    if options.port is None and "port" not in tables["gateway"]:
        options.port = _answer("port to listen on", "8402", port_argument)


def _answer(question: str, default: str | None, read: Callable[[str], T]) -> T:
    """Ask until the answer can be read. Raises `ConfigError` when nobody answers any more."""
    while True:
        print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise ConfigError(f"no answer to: {question}")
        text = line.strip() or (default or "")
        try:
            if not text and default is None:
                raise ConfigError("an answer is needed")
            return read(text)
        except (ConfigError, argparse.ArgumentTypeError) as error:
            print(f"  {error}", file=sys.stderr)


def _known_network(text: str) -> str:
    described(text)
    return text


def _checked_url(text: str) -> str:
    return parse_url(text, "it")


def _checked_route(text: str) -> str:
    if text:
        parse_route(text)
    return text


def _take_vendor(options: argparse.Namespace, text: str) -> None:
    try:
        options.vendor = parse_pubkey(text, "it")
    except MalformedError:
        path = Path(text)
        if path.exists():
            load_key(path, "the vendor's key")
            options.vendor_keypair = text
        elif path.suffix == ".json":
            options.create_vendor_key = text
        else:
            raise ConfigError("neither a public key nor a key file (new ones end in .json)") from None
