"""Settings: one `ratchet.toml` into frozen values.

Order: environment (`RATCHET_SECTION__KEY`), then the file, then the defaults here. Every default carries its
meaning and unit. Unknown keys are errors that name the nearest known one.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from relations.errors import SettingsError
from stores.console_settings import ConsoleSettings
from stores.learning_settings import (
    EvaluationSettings,
    FeatureSettings,
    ForgettingSettings,
    IncrementSettings,
    ModalitySettings,
    ModelSettings,
    ObjectiveSettings,
    OnlineSettings,
    RetrainSettings,
    TrainSettings,
    TuneSettings,
)
from stores.notify_settings import NotifySettings
from stores.sections import Count, Positive, Section, Share
from stores.serving_settings import PolicySettings, ReleaseSettings, ServingSettings
from stores.trial_settings import MetricSettings, SliceSettings, TrialSettings

PREFIX = "RATCHET_"
Format = Literal[
    "auto", "csv", "jsonl", "parquet", "arrow", "movielens", "amazon", "mind", "diginetica", "openbandit"
]  # fmt: skip


class HomeSettings(Section):
    clock: Literal["wall", "request"] = "wall"
    """`request`: the header X-Ratchet-Now carries the time. For simulations only."""


class LakeSettings(Section):
    allowed_lateness_hours: Positive = 72.0
    """Landing rows older than the watermark by more than this go to the late table."""
    max_skew_minutes: Positive = 10.0
    """Landing rows that claim to be further in the future than this are quarantined."""
    engine: Literal["duckdb", "spark"] = "duckdb"
    """Which backend runs the relations. `spark` needs the extra `spark` and Java 17."""
    memory_mb: Annotated[int, Field(ge=128)] = 512
    """What DuckDB may hold in memory while it ingests; beyond it, it spills to the home's disk."""
    max_expansion: Positive = 200.0
    """A compressed delivery that opens to more than this many times its size is refused."""
    keep_days: Positive = 7.0
    """Files that no current table version needs are deleted once they are this old."""


class PrivacySettings(Section):
    k: Count = 5
    """Small-cell suppression: a report's group of fewer users than this shows no figure."""
    retire_days: Positive = 30.0
    """A model trained on a forgotten user must be replaced by a full retrain within this time."""


class SourceSettings(Section):
    kind: Literal["events", "items", "users"] = "events"
    """What a polled source (one with a `uri`) delivers."""
    uri: str = ""
    """Where the schedule looks for new data: a folder or pattern on any fsspec URL, or kafka://host:port/topic."""
    options: dict[str, str] = {}
    """Passed to the file system (key, secret, endpoint_url, …; `a.b` is entry b of a) or to the Kafka client (sasl.…).
    `env:NAME` stands for that variable's value, so that no secret need be in this file."""
    format: Format = "auto"
    columns: dict[str, str] = {}
    """Ratchet's column name → the source's."""
    constants: dict[str, str] = {}
    """Ratchet's column name → the value that every row has, for a column that the source lacks."""
    behaviours: dict[str, str] = {}
    """The source's behaviour → Ratchet's."""
    context: tuple[str, ...] = ()
    """The source's columns that describe the moment of an event: device, locale, hour."""
    time_unit: Literal["auto", "s", "ms", "us"] = "auto"
    """Unit of numeric times. `auto` reads 10 digits as s, 13 as ms, 16 as us."""
    schema_policy: Literal["strict", "additive", "coerce"] = "coerce"
    """Against the source's earlier deliveries. `strict`: the same columns and types, or the batch is held. `additive`:
    new columns may come, retyped or vanished ones hold the batch. `coerce`: what converts without loss is converted,
    each conversion a warning on the receipt."""
    batch_rows: Count = 200_000
    """Kafka: a delivery holds at most this many messages."""
    batch_seconds: Positive = 5.0
    """Kafka: a poll gathers messages for at most this long."""


class ValidationSettings(Section):
    max_failing_share: Share = 0.3
    """A batch whose failing share exceeds this is quarantined whole."""
    min_rows_for_share: Count = 20
    """Below this many rows a batch is never quarantined whole for its share alone, unless every row fails."""
    evidence_rows: Count = 100_000
    """Great Expectations looks at the rows of deliveries up to this size; of larger ones, at their aggregates."""
    anomalies: Literal["off", "warn", "quarantine"] = "quarantine"
    """What a landing batch that looks poisoned against the trailing window gets."""
    window: Count = 30
    """Earlier deliveries of the same source and kind that a batch is compared with."""
    min_window: Count = 8
    """With fewer of them nothing is called an anomaly."""
    min_rows: Count = 200
    """A batch with fewer rows is never called an anomaly."""


class LedgerSettings(Section):
    url: str = ""
    """SQLAlchemy URL; empty: SQLite in the home."""
    approval_hours: Positive = 72.0
    """A trial that waits longer for a person expires."""
    evidence_hours: Positive = 24.0
    """Evidence older than this cannot be approved; look again."""


class TrackingSettings(Section):
    uri: str = ""
    """MLflow tracking URI; empty: SQLite in the home."""
    experiment: str = "ratchet"
    model: str = "ratchet"
    """Registered model name."""
    wait_seconds: Positive = 30.0
    """A release waits at most this long for a tracking server; the next training tells it what it missed."""


class SchedulesSettings(Section):
    """What `ratchet up` runs and when; `prefect.yaml` states the same for work pools."""

    ingest_seconds: Annotated[int, Field(ge=30)] = 60
    learn_minutes: Count = 60
    """How often the evidence is looked at, which decides between nothing, an increment and a full retrain."""
    full_retrain_days: Count = 7
    """A full retrain at least this often, whatever the evidence says."""
    trial_minutes: Count = 15
    bake_minutes: Count = 5
    """How often a promotion that bakes is looked after."""
    maintenance_hours: Count = 24
    """Tables are compacted, and what is older than [lake] keep_days is dropped."""
    runs_at_once: Annotated[int, Field(ge=1)] = 2
    """Flow runs side by side: one ingest beside one training. More would wait for the same cores and locks."""


class Settings(Section):
    home: HomeSettings = HomeSettings()
    lake: LakeSettings = LakeSettings()
    privacy: PrivacySettings = PrivacySettings()
    sources: dict[str, SourceSettings] = {}
    validation: ValidationSettings = ValidationSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    features: FeatureSettings = FeatureSettings()
    modalities: dict[str, ModalitySettings] = {}
    objective: ObjectiveSettings = ObjectiveSettings()
    increment: IncrementSettings = IncrementSettings()
    retrain: RetrainSettings = RetrainSettings()
    online: OnlineSettings = OnlineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    forgetting: ForgettingSettings = ForgettingSettings()
    tune: TuneSettings = TuneSettings()
    release: ReleaseSettings = ReleaseSettings()
    serving: ServingSettings = ServingSettings()
    policy: PolicySettings = PolicySettings()
    trial: TrialSettings = TrialSettings()
    ledger: LedgerSettings = LedgerSettings()
    console: ConsoleSettings = ConsoleSettings()
    notify: NotifySettings = NotifySettings()
    tracking: TrackingSettings = TrackingSettings()
    schedules: SchedulesSettings = SchedulesSettings()


def load_settings(file: Path | None, *, environment: dict[str, str] | None = None) -> Settings:
    """Read `file` (None: defaults) and the environment. Raises SettingsError with file, key and remedy."""
    stated: dict[str, Any] = {}
    name = "ratchet.toml"
    if file is not None:
        name = str(file)
        try:
            stated = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SettingsError(f"{file}: no such settings file; check --config") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: not TOML: {error}") from error
    variables = _from_environment(dict(os.environ) if environment is None else environment)
    for (section, key), text in variables.items():
        table = stated.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = text
    try:
        return Settings.model_validate(stated)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(name, problem, variables) for problem in error.errors())) from error


def _from_environment(environment: dict[str, str]) -> dict[tuple[str, str], str]:
    found = {}
    for variable, text in environment.items():
        section, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
        if variable.startswith(PREFIX) and separator:
            found[section, key] = text
    return found


def _explain(file: str, problem: Any, variables: dict[tuple[str, str], str]) -> str:
    place = [str(part) for part in problem["loc"]]
    key, sections = place[-1], place[:-1]
    odd = [f"{PREFIX}{section}__{option}".upper() for section, option in variables if place == [section]]
    if len(place) >= 2 and (place[0], place[1]) in variables:
        where = f"environment {PREFIX}{place[0].upper()}__{place[1].upper()}: "
    elif odd:  # of a section that is none
        where = f"environment {odd[0]}: "
    else:
        where = f"{file}: " + (f"[{'.'.join(sections)}] " if sections else "")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known(sections), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(_known(sections)))}"
        return f"{where}{key} is not a setting{hint}"
    if place[0] == "sources" and (len(place) < 3 or "options" in place):
        return f"{where}{key}: {problem['msg']}"  # an option may be a secret
    if place[0] == "serving" and len(place) > 1 and place[1].startswith("user_state"):
        return f"{where}{key}: {problem['msg']}"  # a URL may hold a password
    if place[:2] == ["notify", "urls"]:
        return f"{where}{'.'.join(place[1:])}: {problem['msg']}"  # secrets
    return f"{where}{key} = {problem['input']!r}: {problem['msg']}"


def _known(sections: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for section in sections:
        field = model.model_fields.get(section)
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif section == "sources":
            model = SourceSettings
        elif section == "modalities":
            model = ModalitySettings
        elif section == "metrics":
            model = MetricSettings
        elif section == "slices":
            model = SliceSettings
    return list(model.model_fields)


def find_settings(home: Path, stated: Path | None) -> Path | None:
    """The settings file in force: the stated one, else the home's, else that of the working directory."""
    if stated is not None:
        return stated
    return next((file for file in (home / "ratchet.toml", Path("ratchet.toml")) if file.exists()), None)
