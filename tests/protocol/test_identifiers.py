"""The extension `payment-identifier`, against the stock x402 package."""

from typing import Any

import pytest
from x402.extensions import payment_identifier as stock

from machpay.protocol.errors import MalformedError
from machpay.protocol.identifiers import (
    DECLARATION,
    EXTENSION,
    is_declared,
    new_identifier,
    read_identifier,
    with_identifier,
)

ID = "pay_0123456789abcdef"


def test_the_declaration_is_the_stock_one() -> None:
    assert stock.PAYMENT_IDENTIFIER == EXTENSION
    assert stock.declare_payment_identifier_extension() == DECLARATION
    assert is_declared({EXTENSION: DECLARATION})


def test_what_the_stock_client_sends_is_read_and_the_other_way_round() -> None:
    sent = stock.append_payment_identifier_to_extensions({EXTENSION: dict(DECLARATION)}, ID)
    assert read_identifier(sent) == ID
    assert with_identifier({EXTENSION: DECLARATION}, ID) == sent
    assert stock.validate_payment_identifier(sent[EXTENSION]).valid
    assert "id" not in DECLARATION["info"]


def test_a_new_identifier_is_valid_everywhere_and_never_the_same() -> None:
    assert stock.is_valid_payment_id(new_identifier())
    assert new_identifier() != new_identifier()


def test_without_a_declaration_nothing_is_added() -> None:
    assert with_identifier({}, ID) == {}
    assert with_identifier({EXTENSION: {"info": {}}}, ID) == {EXTENSION: {"info": {}}}
    assert read_identifier({}) is None
    assert read_identifier({EXTENSION: DECLARATION}) is None


@pytest.mark.parametrize(
    "value", ["x" * 15, "x" * 129, "a b c d e f g h i", "ä" * 20, ID + "\n", 7, ["x" * 20]]
)
def test_what_is_not_an_identifier_is_refused_as_the_stock_package_does(value: Any) -> None:
    with pytest.raises(MalformedError):
        read_identifier({EXTENSION: {"info": {"required": False, "id": value}}})
    # A trailing newline passes the stock pattern; headers and logs are better off without it.
    if value != ID + "\n":
        assert not stock.is_valid_payment_id(value)


@pytest.mark.parametrize("value", [None, "text", {}, {"info": "text"}])
def test_an_extension_without_info_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedError):
        read_identifier({EXTENSION: value})
