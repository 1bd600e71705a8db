"""Reading what a server shows of a transaction's calls."""

import random

import pytest

from contracts.localnet import codec
from machpay.chain.errors import DecodeError
from machpay.chain.traces import _from_base58


@pytest.mark.parametrize("length", [0, 1, 46, 47, 48, 94, 95, 1_000, 10_240])
def test_data_of_any_length_is_read_back(length: int) -> None:
    drawn = random.Random(length).randbytes(length)
    for data in (drawn, b"\0\0" + drawn, bytes(length)):
        assert _from_base58(codec.to_base58(data)) == data


@pytest.mark.parametrize("text", ["0", "l" * 200, "1" * 199 + "O", "é"])
def test_what_is_not_base58_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="base58"):
        _from_base58(text)
