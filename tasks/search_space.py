"""What a search may change: ranges of `[model]` and `[train]`, from `[tune]` or, without one, the usual ones."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from relations.errors import SettingsError
from stores.learning_settings import RangeSettings
from stores.settings import Settings

SECTIONS = ("model", "train")
FIXED = ("seed", "device", "threads", "checkpoint_every_steps")
"""They say where and how often, not how good."""


@dataclass(frozen=True)
class Space:
    """`distributions`: by `section.key`. Every one of them holds the present value."""

    distributions: Mapping[str, BaseDistribution]
    present: Mapping[str, Any]

    def settings(self, settings: Settings, params: Mapping[str, Any]) -> Settings:
        """`settings` with these. Raises SettingsError where the two do not go together."""
        stated = settings.model_dump()
        for name, value in params.items():
            section, key = name.split(".")
            stated[section][key] = plain(value)
        try:
            return Settings.model_validate(stated)
        except ValidationError as error:
            raise SettingsError(f"[tune]: {error.errors()[0]['msg']} for {dict(params)}") from error


def space_of(settings: Settings) -> Space:
    """Raises SettingsError for a key that is none, or a range that holds values which the key does not take."""
    stated = {f"{section}.{key}": r for section in SECTIONS for key, r in getattr(settings.tune, section).items()}
    present: dict[str, Any] = {}
    found: dict[str, BaseDistribution] = {}
    for name, given in (stated or _usual(settings)).items():
        section, key = name.split(".")
        known = sorted(set(type(getattr(settings, section)).model_fields) - set(FIXED))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"[tune.{section}] {key}: nothing of [{section}] that a search may change; {hint}")
        present[name] = getattr(getattr(settings, section), key)
        for value in (given.low, given.high, *given.choices):
            if value is not None:
                _check(settings, section, key, value)
        found[name] = _distribution(given, present[name])
    return Space(found, present)


def plain(value: Any) -> Any:
    """Four digits of a float: as good, and a person can read it."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def fragment(params: Mapping[str, Any]) -> str:
    """As in `ratchet.toml`."""
    lines = []
    for section in SECTIONS:
        keys = {name.partition(".")[2]: value for name, value in params.items() if name.startswith(f"{section}.")}
        if keys:
            lines += [f"[{section}]", *(f"{key} = {_toml(plain(value))}" for key, value in sorted(keys.items()))]
    return "\n".join(lines)


def _usual(settings: Settings) -> dict[str, RangeSettings]:
    width, heads = settings.model.width, settings.model.heads
    return {
        "model.width": RangeSettings(choices=tuple(w for w in (width // 2, width, 2 * width) if w and not w % heads)),
        "model.blocks": RangeSettings(low=1, high=3),
        "model.dropout": RangeSettings(low=0.0, high=0.5),
        "train.learning_rate": RangeSettings(low=3e-4, high=1e-2, log=True),
        "train.batch_tokens": RangeSettings(low=800, high=12_800, log=True),
    }


def _distribution(given: RangeSettings, present: Any) -> BaseDistribution:
    """The present value is in it, stated or not: the answer is a comparison with it."""
    if given.low is None or given.high is None:
        return CategoricalDistribution(given.choices if present in given.choices else (*given.choices, present))
    low, high = min(given.low, present), max(given.high, present)
    if isinstance(present, int):
        return IntDistribution(int(low), int(high), log=given.log)
    return FloatDistribution(float(low), float(high), log=given.log)


def _check(settings: Settings, section: str, key: str, value: Any) -> None:
    present = getattr(settings, section)
    try:
        kind = type(getattr(present, key))
        type(present).model_validate(
            {**present.model_dump(), key: int(value) if kind is int and value == int(value) else value}
        )
    except (ValidationError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SettingsError(f"[tune.{section}] {key} = {value!r}: {said}") from error


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
