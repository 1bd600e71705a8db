"""Columns for atomic amounts and public keys."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models

if TYPE_CHECKING:
    _Decimal = models.DecimalField
    _Text = models.CharField
else:
    # Fields are generic for the type checker only.
    class _Generic:
        def __class_getitem__(cls, _types: Any) -> type:
            return cls

    class _Decimal(_Generic, models.DecimalField):
        pass

    class _Text(_Generic, models.CharField):
        pass


_Set_contra = TypeVar("_Set_contra", contravariant=True)
_Get_co = TypeVar("_Get_co", covariant=True)


class AtomicField(_Decimal[_Set_contra, _Get_co]):
    """An integer amount of atomic units, wide enough for any sum of u64 values (38 digits); an `int` in Python."""

    # What django-stubs reads to type attributes of models; null=True makes them optional.
    _pyi_private_set_type: int
    _pyi_private_get_type: int  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_digits"], kwargs["decimal_places"] = 38, 0
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_digits"], kwargs["decimal_places"]
        return name, path, args, kwargs

    def from_db_value(self, value: Decimal | None, *_context: Any) -> int | None:
        return None if value is None else int(value)


class PubkeyField(_Text[_Set_contra, _Get_co]):
    """A base58 key or address. Compared by bytes, so that the database sorts as Python does (lock order)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"], kwargs["db_collation"] = 44, "C"
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_length"], kwargs["db_collation"]
        return name, path, args, kwargs
