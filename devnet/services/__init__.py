"""Embedded PostgreSQL and Valkey for the demo and the tests.

    with Services("var") as services:
        services.database_url, services.redis_url

Owns the two servers, their ports, their data and the account they run under. Knows nothing about Django, the
schema or the demo. `DATABASE_URL` and `REDIS_URL`, when set, are used instead of starting the server they
name.
"""

from devnet.services.errors import ServicesError
from devnet.services.manager import Services

__all__ = ["Services", "ServicesError"]
