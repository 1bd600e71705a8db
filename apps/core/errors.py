"""The root of every app's error tree, in the shape the edges render.

DomainError               code, HTTP status, a sentence for people
└── <app>.errors...       one tree per app
"""

from typing import ClassVar


class DomainError(Exception):
    """A refusal with a stable `code`. Edges render it as a problem; everything else lets it pass.

    `retry_after_s` is set where trying again later can succeed.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
