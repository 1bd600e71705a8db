"""USDC text and atomic units are the same amount, exactly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.core.money import InvalidAmount, format_usdc, parse_usdc


@pytest.mark.parametrize(
    ("text", "atomic"),
    [
        ("0", 0),
        ("1", 1_000_000),
        ("12.5", 12_500_000),
        ("0.000001", 1),
        (Decimal("3.10"), 3_100_000),
        (7, 7_000_000),
    ],
)
def test_amounts_are_parsed_exactly(text, atomic):
    assert parse_usdc(text) == atomic


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "1.",
        ".5",
        "0.0000001",
        "1e3",
        "1,5",
        " 1",
        "NaN",
        "١",
        True,
        Decimal("NaN"),
        Decimal("-0.5"),
    ],
)
def test_what_is_not_an_amount_is_refused(text):
    with pytest.raises(InvalidAmount):
        parse_usdc(text)


@pytest.mark.parametrize(
    ("atomic", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (12_500_000, "12.50"),
        (-3_000_000, "-3.00"),
        (-1, "-0.000001"),
        (123_450, "0.12345"),
    ],
)
def test_amounts_are_formatted_without_loss(atomic, text):
    assert format_usdc(atomic) == text


@given(st.integers(0, 10**24))
def test_formatting_and_parsing_are_inverse(atomic):
    assert parse_usdc(format_usdc(atomic)) == atomic
