"""How amounts, keys and times are written on a page."""

from collections.abc import Sequence

from django import template

from apps.core.money import USDC_DECIMALS, format_usdc

register = template.Library()


@register.filter
def usdc(amount_atomic: int) -> str:
    """`1234567890` atomic units as `1,234.567890`: exact, and always as wide, so that amounts line up."""
    whole, _, decimals = format_usdc(amount_atomic).partition(".")
    return f"{int(whole):,}.{decimals.ljust(USDC_DECIMALS, '0')}"


@register.filter
def grouped(number: int) -> str:
    """`1234567` as `1,234,567`."""
    return f"{number:,}"


@register.filter
def shortened(key: str) -> str:
    """A base58 key or signature as people compare them: both ends."""
    return key if len(key) <= 12 else f"{key[:4]}…{key[-4:]}"


@register.filter
def sparkline(history: Sequence[float]) -> str:
    """SVG polyline points of `history`, newest at the right of a box 118 wide and 28 high."""
    top = max(history, default=0.0) or 1.0
    start = 60 - len(history)
    return " ".join(
        f"{(start + place) * 2},{28 - 26 * value / top:.1f}" for place, value in enumerate(history)
    )


@register.filter
def capfirst_lower(state: str) -> str:
    """`FINALIZED` as `Finalized`."""
    return state.capitalize()
