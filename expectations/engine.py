"""Great Expectations, started once a process: quiet, offline, without progress bars."""

import logging
import os
import warnings
from functools import cache
from typing import Any


@cache
def great_expectations() -> Any:
    """The package. Imported here alone: it takes seconds, and its own imports warn of deprecations."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        import great_expectations.expectations
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    return gx


@cache
def frame_definition(kind: str) -> Any:
    """The batch definition that takes a whole pandas frame of `kind`."""
    gx = great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("delivery").add_dataframe_asset(kind)
    return asset.add_batch_definition_whole_dataframe("whole")
