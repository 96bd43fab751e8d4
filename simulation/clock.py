"""Simulated time: microseconds since midnight of day 0, and what they are on the real calendar (UTC)."""

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from simulation.parameters import Parameters

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
SECOND_US = 1_000_000


def instant(time_us: int, parameters: Parameters) -> datetime:
    return parameters.start + timedelta(microseconds=time_us)


def told(time_us: int, parameters: Parameters) -> datetime:
    """The moment that `iso` tells: whole milliseconds."""
    return instant(time_us - time_us % 1_000, parameters)


def iso(time_us: int, parameters: Parameters) -> str:
    """ISO 8601 with milliseconds and Z."""
    return instant(time_us, parameters).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_times(time_us: NDArray[np.int64], parameters: Parameters) -> list[str]:
    """`iso` of many times at once."""
    start = np.datetime64(parameters.start.astimezone(UTC).replace(tzinfo=None), "us")
    text = np.datetime_as_string((start + time_us.astype("timedelta64[us]")).astype("datetime64[ms]"))
    return [f"{stamp}Z" for stamp in text]
