"""Rows of a benchmark: a measured figure, its bar, and whether it holds, which is computed from the two."""

import math
from typing import Any

Row = dict[str, Any]


def at_most(name: str, measured: float, bar: float, unit: str = "%") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≤ {bar:g}", "holds": bool(measured <= bar)}


def at_least(name: str, measured: float, bar: float, unit: str = "%") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≥ {bar:g}", "holds": bool(measured >= bar)}


def caught(name: str, measured: float, bar: float, unit: str = "%") -> Row:
    """A method that is broken on purpose must miss the bar that the real one keeps."""
    return {"name": name, "measured": measured, "unit": unit, "bar": f"> {bar:g}", "holds": bool(measured > bar)}


def figure(name: str, measured: float | None, unit: str = "%") -> Row:
    """A figure without a bar; None: not measured here, and the name says why."""
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}


def skipped(name: str, why: str) -> Row:
    """A row that could not be measured here, and fails nothing."""
    return {"name": f"{name}: skipped, {why}", "measured": None, "unit": "", "bar": "", "holds": None}


def slack(rate: float, repetitions: int) -> float:
    """The rate plus three standard errors of a simulation of it, in percent."""
    return round(100 * (rate + 3 * math.sqrt(rate * (1 - rate) / repetitions)), 2)


def shortfall(rate: float, repetitions: int) -> float:
    """The rate less three standard errors of a simulation of it, in percent."""
    return round(100 * (rate - 3 * math.sqrt(rate * (1 - rate) / repetitions)), 2)
