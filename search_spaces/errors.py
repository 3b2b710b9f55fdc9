"""Every error a user can cause, each with its own exit code."""

from __future__ import annotations


class ServecastError(Exception):
    """Base of all errors that are not bugs; `exit_code` is what the CLI returns."""

    exit_code = 2


class BadInput(ServecastError):
    """A field has a value that breaks a rule: names the field, value, rule and remedy."""

    exit_code = 2


class Infeasible(ServecastError):
    """No valid recipe exists, or this recipe cannot run; search prunes on this alone.

    `rule` is the short id of the law that failed, so that prunes can be counted.
    """

    exit_code = 3

    def __init__(self, message: str, rule: str = "infeasible") -> None:
        super().__init__(message)
        self.rule = rule


class OutOfTolerance(ServecastError):
    """A validation ran, and predictions are further from measurements than allowed."""

    exit_code = 4


class MissingData(ServecastError):
    """A GPU, an engine, a package or a measured table that the request needs is not there."""

    exit_code = 5


class StartFailed(ServecastError):
    """A live engine ended, or took too long, before it answered."""

    exit_code = 4
