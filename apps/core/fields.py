"""Columns for atomic amounts and public keys."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    _Decimal = models.DecimalField[int, int]
    _Text = models.CharField[str, str]
else:
    _Decimal, _Text = models.DecimalField, models.CharField


class AtomicField(_Decimal):
    """An integer amount of atomic units, wide enough for any sum of u64 values (38 digits); an `int` in Python."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_digits"], kwargs["decimal_places"] = 38, 0
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_digits"], kwargs["decimal_places"]
        return name, path, args, kwargs

    def from_db_value(self, value: Decimal | None, *_context: Any) -> int | None:
        return None if value is None else int(value)


class PubkeyField(_Text):
    """A base58 key or address. Compared by bytes, so that the database sorts as Python does (lock order)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"], kwargs["db_collation"] = 44, "C"
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_length"], kwargs["db_collation"]
        return name, path, args, kwargs
