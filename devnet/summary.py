"""What the terminal shows: one live panel, and the final comparison of `--once`."""

from typing import Any

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from devnet.figures import Comparison, Figures


def usdc(atomic: int) -> str:
    """Atomic units as USDC with six places, without rounding."""
    sign = "-" if atomic < 0 else ""
    return f"{sign}{abs(atomic) // 1_000_000}.{abs(atomic) % 1_000_000:06d}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def summary_panel(traffic: dict[str, Any], figures: Figures, console_url: str) -> Panel:
    """One panel with what has happened since the start (calls) and since the chain's genesis (money)."""
    grid = Table.grid(padding=(0, 3))
    for _ in range(4):
        grid.add_column()
    grid.add_row(
        "paid calls", f"[bold]{traffic['paid']:,}[/bold]", "calls/s", f"[bold]{traffic['calls_per_s']}[/bold]"
    )
    grid.add_row("p50", _milliseconds(traffic["p50_ms"]), "p99", _milliseconds(traffic["p99_ms"]))
    grid.add_row(
        "unsettled",
        f"{usdc(figures.unsettled_atomic)} USDC",
        "settled on-chain",
        f"[bold green]{usdc(figures.settled_atomic)} USDC[/bold green]",
    )
    failures = sum(traffic["failures"].values())
    grid.add_row("settlements", f"{figures.settlements:,}", "refused or failed", f"{failures:,}")
    last = Text.assemble(("last transaction  ", "dim"), figures.last_signature or "none yet")
    where = Text.assemble(
        ("console  ", "dim"), (console_url, "underline"), ("   Ctrl-C stops everything", "dim")
    )
    return Panel(Group(grid, last, where), title="MachPay", box=box.ROUNDED, expand=False)


def comparison_table(comparison: Comparison) -> Table:
    """Per vendor: the wallet on chain, the ledger, and the receipts that agents hold."""
    table = Table(
        title=f"Vendors' wallets and the vault at finalised slot {comparison.slot}, and the ledger (USDC)",
        caption="* in this run: by the ledger, and by the receipts that agents hold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("vendor", "on-chain", "ledger", "unsettled", "charged*", "receipts*", ""):
        # Amounts never wrap: a sum that is cut off proves nothing.
        table.add_column(name, justify="left" if name in ("vendor", "") else "right", no_wrap=True)
    for line in comparison.vendors:
        table.add_row(
            line.title,
            usdc(line.on_chain_atomic),
            usdc(line.ledger_settled_atomic),
            usdc(line.unsettled_atomic),
            usdc(line.charged_atomic),
            usdc(line.receipts_atomic),
            "[green]equal[/green]" if line.agrees else "[red]MISMATCH[/red]",
        )
    table.add_row(
        "vault",
        usdc(comparison.vault_atomic),
        usdc(comparison.ledger_bonds_atomic),
        "",
        "",
        "",
        "[green]equal[/green]" if comparison.vault_agrees else "[red]MISMATCH[/red]",
    )
    return table
