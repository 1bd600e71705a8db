"""Rows that other processes have to see while a test's own transaction is open."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection

T = TypeVar("T")


def committed(work: Callable[[], T]) -> T:
    """Do `work` on a connection of its own, seen by servers although the test's transaction is open."""

    def run() -> T:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
