"""`machpay-gateway export` and `import`: arguments and what they print. Lines of payments go to stdout or a file, all
else to stderr."""

import argparse
import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

from machpay.protocol.encoding import parse_rfc3339
from machpay.protocol.errors import MalformedError
from machpay_gateway.commands.base import (
    AGAIN,
    OK,
    REFUSED,
    Commands,
    add_command,
    agents_argument,
    complain,
    count_argument,
    log_arguments,
    say,
    settings_of,
)
from machpay_gateway.errors import ConfigError, Refused, RelayerError
from machpay_gateway.peers import Peers
from machpay_gateway.settings import Settings
from machpay_gateway.transfer.export import Choice, Summary, export
from machpay_gateway.transfer.importing import Good, Report, hand_over, judged
from machpay_gateway.transfer.reading import replay
from machpay_gateway.transfer.restore import evidence_of, restore
from machpay_gateway.urls import parse_url

_STDIO: Final = "-"
_AGO: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EXPORT_ABOUT: Final = """\
Write completed payments of this gateway's log as JSON lines: one settlement item
each, with the agent's signature and the gateway's receipt, so that the file
proves itself. The log is only read, also while the gateway runs. It keeps every
payment that the relayer does not have, and delivered ones for a while.
"""
_EXPORT_EXAMPLES: Final = """\
examples:
  machpay-gateway export --undelivered --output settlements.jsonl
  machpay-gateway export --since 24h --status charged | wc -l

read by: manage.py import_settlements --file settlements.jsonl (at the relayer),
machpay-gateway import (as this gateway)
"""
_IMPORT_ABOUT: Final = """\
Take payments over from a file (an export, or dead-letters.jsonl) or from another
data folder of this gateway. Every line is judged by its own signatures; others'
payments are refused. By default the payments are handed to the relayer, which
counts each once however often it comes. With --into-log the channel totals of
this gateway's own log are raised to what is proven instead: for a gateway that
lost its log and has no relayer to ask; it must not run meanwhile. `claim` then
finds the vouchers.
"""
_IMPORT_EXAMPLES: Final = """\
examples:
  machpay-gateway import --file settlements.jsonl --dry-run
  machpay-gateway import --file data/dead-letters.jsonl
  machpay-gateway import --from-data-dir /mnt/old/data
  machpay-gateway import --file backup.jsonl --into-log
"""


def add_transfer_commands(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `export` and `import` to the parser."""
    out = add_command(
        commands,
        "export",
        run_export,
        help="write payments of the log as JSON lines",
        about=_EXPORT_ABOUT,
        examples=_EXPORT_EXAMPLES,
    )
    log_arguments(out)
    out.add_argument("--output", metavar="FILE", default=_STDIO, help="where to; - is stdout, the default")
    out.add_argument("--force", action="store_true", help="replace the output file if it exists")
    out.add_argument(
        "--data-dir", metavar="DIR", help="read the log in this folder instead of gateway.data_dir"
    )
    choice = out.add_argument_group("which payments")
    choice.add_argument(
        "--undelivered", action="store_true", help="only those that the relayer does not have"
    )
    agents_argument(choice)
    choice.add_argument("--status", choices=("charged", "void"), help="only payments with this outcome")
    choice.add_argument(
        "--since", type=_time, metavar="TIME", help="RFC 3339, or how long ago: 90s, 30m, 24h, 7d"
    )
    choice.add_argument("--until", type=_time, metavar="TIME", help="the same; not included")
    choice.add_argument("--seq-from", type=count_argument, metavar="N", help="place in the gateway's order")
    choice.add_argument("--seq-to", type=count_argument, metavar="N", help="included")

    take = add_command(
        commands,
        "import",
        run_import,
        help="take payments over from a file or another data folder",
        about=_IMPORT_ABOUT,
        examples=_IMPORT_EXAMPLES,
    )
    log_arguments(take)
    source = take.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", metavar="FILE", help="one settlement item per line; - is stdin")
    source.add_argument("--from-data-dir", metavar="DIR", help="another data folder of this gateway")
    take.add_argument(
        "--into-log", action="store_true", help="raise this log's totals instead of telling the relayer"
    )
    take.add_argument("--dry-run", action="store_true", help="judge and count only; change nothing")
    take.add_argument(
        "--relayer-url", metavar="URL", help="hand over to this relayer instead of network.relayer_url"
    )


# ---- export


def run_export(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `LogError` and its kinds, `Refused`, `OSError`."""
    settings = settings_of(options)
    if options.data_dir:
        settings = replace(settings, data_dir=Path(options.data_dir))
    choice = Choice(
        agents=frozenset(options.agent),
        status=options.status,
        since=options.since,
        until=options.until,
        seq_from=options.seq_from,
        seq_to=options.seq_to,
    )
    to_stdout = options.output == _STDIO
    if to_stdout and options.as_json:
        raise ConfigError("--json needs --output FILE: stdout is for the payments")
    with _sink(options.output, force=options.force) as write:
        summary = export(settings, choice, write, undelivered=options.undelivered)
    if to_stdout:
        print(_exported(summary, "stdout"), file=sys.stderr)
    else:
        say(options, {**asdict(summary), "output": options.output}, _exported(summary, options.output))
    return OK


def _exported(summary: Summary, where: str) -> str:
    text = f"{summary.written} of {summary.read} payments in the log written to {where}"
    if summary.open:
        text += f"; {summary.open} are still open and not in it"
    return text


@contextlib.contextmanager
def _sink(output: str, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Where lines go. Nothing is seen of them if the block raises: a file appears whole (0600), stdout gets all at the
    end."""
    if output != _STDIO and Path(output).exists() and not force:
        raise Refused(f"{output} exists; --force replaces it")
    folder = None if output == _STDIO else Path(output).resolve().parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".export-", delete=False) as draft:
        path = Path(draft.name)
        try:
            yield draft.write
            draft.flush()
            if output == _STDIO:
                _print_file(draft)
            else:
                os.fsync(draft.fileno())
                path.replace(output)
        finally:
            path.unlink(missing_ok=True)


def _print_file(draft: "IO[bytes]") -> None:
    draft.seek(0)
    while piece := draft.read(1 << 20):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _time(text: str) -> int:
    """Unix seconds from RFC 3339, or from how long ago."""
    if ago := _AGO.fullmatch(text):
        return int(time.time()) - int(ago[1]) * _UNITS[ago[2]]
    try:
        return parse_rfc3339(text, "it")
    except MalformedError:
        raise argparse.ArgumentTypeError("write it like 2026-11-21T14:00:00Z, or 24h for a day ago") from None


# ---- import


def run_import(options: argparse.Namespace) -> int:
    """Run it; the exit code. Raises `ConfigError`, `LogError` and its kinds, `OSError`."""
    settings = settings_of(options)
    if options.into_log and options.relayer_url:
        raise ConfigError("--into-log tells no relayer: leave --relayer-url out")
    report = Report()
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_lines(options, settings))
        goods = judged(lines, settings.network, settings.key.public, report)
        if options.into_log:
            return _into_log(options, settings, goods, report)
        return _to_relayer(options, settings, goods, report)


@contextlib.contextmanager
def _lines(options: argparse.Namespace, settings: Settings) -> Iterator[IO[bytes]]:
    if options.file == _STDIO:
        yield sys.stdin.buffer
    elif options.file:
        with Path(options.file).open("rb") as file:
            yield file
    else:
        other = _other_folder(options, settings)
        with tempfile.TemporaryFile() as spool:
            export(other, Choice(), spool.write, undelivered=False)
            spool.seek(0)
            yield spool


def _other_folder(options: argparse.Namespace, settings: Settings) -> Settings:
    other = Path(options.from_data_dir)
    if other.resolve() == settings.data_dir.resolve():
        raise ConfigError(
            "--from-data-dir is this gateway's own data_dir: its payments are delivered by running it"
        )
    return replace(settings, data_dir=other)


def _into_log(options: argparse.Namespace, settings: Settings, goods: Iterator[Good], report: Report) -> int:
    evidence = evidence_of(goods, int(time.time()))
    if options.from_data_dir:
        # Its totals also speak of payments that were delivered and forgotten.
        evidence.add_log(replay(_other_folder(options, settings)))
    raised = asyncio.run(restore(settings, evidence, dry_run=options.dry_run))
    rows = [
        {
            "agent": str(each.agent),
            "highest_before_atomic": each.highest_before,
            "highest_atomic": each.highest,
            "served_before_atomic": each.served_before,
            "served_atomic": each.served,
        }
        for each in raised
    ]
    verb = "would be raised" if options.dry_run else "raised"
    lines = [*_found(report), f"{len(raised)} channels {verb}"]
    lines += [
        f"  {row['agent']}: signed {row['highest_before_atomic']} -> {row['highest_atomic']}, "
        f"served {row['served_before_atomic']} -> {row['served_atomic']}"
        for row in rows
    ]
    say(options, {**_result(options, report), "channels": rows}, "\n".join(lines))
    return REFUSED if report.bad else OK


def _to_relayer(
    options: argparse.Namespace, settings: Settings, goods: Iterator[Good], report: Report
) -> int:
    url = parse_url(options.relayer_url, "--relayer-url") if options.relayer_url else settings.relayer_url
    failure: str | None = None
    if options.dry_run:
        for _ in goods:
            pass
    else:
        try:
            asyncio.run(_hand_over(settings, goods, url, report))
        except RelayerError as error:
            failure = str(error)
    lines = _found(report)
    if options.dry_run:
        lines.append("Dry run: nothing was imported")
    else:
        lines.append(f"- {report.known} already processed")
        lines.append(f"Successfully imported {report.imported} settlements")
    say(options, {**_result(options, report), "error": failure}, "\n".join(lines))
    if failure is not None:
        complain(options, f"{failure}; what was imported stays, run it again for the rest", "RelayerError")
        return AGAIN
    return REFUSED if report.bad or report.rejected else OK


async def _hand_over(settings: Settings, goods: Iterator[Good], url: str, report: Report) -> None:
    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\rImporting... {done}", end="", file=sys.stderr, flush=True)

    async with Peers(settings.key) as peers:
        await hand_over(goods, peers, url, report, progress)


def _found(report: Report) -> list[str]:
    lines = [f"Found {report.found} settlements in file"]
    refused = report.bad + report.rejected
    if refused:
        lines.append(f"- {refused} cannot be imported")
        lines += [f"    line {line}: {reason}" for line, reason in report.problems]
        if refused > len(report.problems):
            lines.append(f"    and {refused - len(report.problems)} more")
    return lines


def _result(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    problems = [{"line": line, "reason": reason} for line, reason in report.problems]
    return {**asdict(report), "problems": problems, "dry_run": options.dry_run}
