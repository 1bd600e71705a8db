"""The one error the embedded servers raise."""


class ServicesError(Exception):
    """A server could not be started, reached or stopped; the message says which and ends with its log."""
