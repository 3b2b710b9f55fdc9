"""Results as pandas frames, for notebooks; pandas is imported only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.errors import MissingData


def as_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `pandas.DataFrame` with a row per mapping.

    Raises:
        MissingData: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingData("frames need pandas; install it with `pip install 'servecast[notebook]'`") from None
    return pandas.DataFrame.from_records([dict(row) for row in rows])
