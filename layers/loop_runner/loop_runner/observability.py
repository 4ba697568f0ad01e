"""Owns the logger: JSON lines with the ids of the call on each, never a payload, never a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

if TYPE_CHECKING:
    from types import TracebackType

    import psycopg

_QUOTES_VALUES: Final = "22"
"""Class of SQLSTATEs, data exceptions, whose primary message quotes what was wrong (PostgreSQL, appendix A)."""


class _Formatter(LambdaPowertoolsFormatter):
    """Tells of an error of the database's what it is, without the rows and parameters that the server quotes."""

    def formatException(  # noqa: N802  logging's own
        self, exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        import psycopg  # noqa: PLC0415  a tenth of a second that functions without a database need not spend

        text: str = super().formatException(exc_info)
        error = exc_info[1]
        while error is not None:
            if isinstance(error, psycopg.Error) and str(error):
                text = text.replace(str(error), _without_values(error))
            error = error.__cause__ or error.__context__
        return text


def _without_values(error: psycopg.Error) -> str:
    """What libpq says of a connection as it is; of what a server says neither detail nor context; else nothing."""
    import psycopg  # noqa: PLC0415

    if error.sqlstate is None:
        return str(error) if isinstance(error, psycopg.OperationalError) else "(not shown: it may quote the URL)"
    quotes = error.sqlstate.startswith(_QUOTES_VALUES)
    message = "(not shown: it quotes a value)" if quotes else error.diag.message_primary
    names = [error.diag.table_name, error.diag.column_name, error.diag.constraint_name]
    return " ".join(filter(None, [f"SQLSTATE {error.sqlstate}:", message, *names]))


logger = Logger(logger_formatter=_Formatter(serialize_stacktrace=False))
