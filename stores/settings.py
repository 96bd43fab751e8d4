"""Settings: one `ratchet.toml` into frozen values.

Order: environment (`RATCHET_SECTION__KEY`), then the file, then the defaults here. Every default carries its
meaning and unit. Unknown keys are errors that name the nearest known one.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from relations.errors import SettingsError

PREFIX = "RATCHET_"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


Format = Literal[
    "auto", "csv", "jsonl", "parquet", "arrow", "movielens", "amazon", "mind", "diginetica", "openbandit"
]  # fmt: skip


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


PRESETS: dict[str, dict[str, int | str]] = {
    "small": {"width": 64, "blocks": 2, "heads": 2, "max_history": 50, "block": "softmax"},
    "base": {"width": 128, "blocks": 4, "heads": 2, "max_history": 200, "block": "hstu"},
    "large": {"width": 256, "blocks": 8, "heads": 4, "max_history": 200, "block": "hstu"},
}


class ModelSettings(Section):
    preset: Literal["", "small", "base", "large"] = ""
    """Sets width, blocks, heads, max_history and block, those aside that are stated here: small is 64, 2, 2, 50 of
    softmax blocks; base 128, 4, 2, 200 and large 256, 8, 4, 200 of HSTU blocks."""
    width: Count = 64
    blocks: Count = 2
    heads: Count = 2
    max_history: Count = 50
    """Events of a user that the network sees."""
    dropout: Share = 0.2
    block: Literal["softmax", "hstu"] = "softmax"
    """softmax: attention and a feed-forward layer, for small data and few epochs; hstu: pointwise attention with a
    gate, which ranks better where there is much to learn from, and costs less a target."""
    feed: Count = 4
    """The feed-forward layer's width, in widths (softmax blocks)."""
    absolute_positions: bool = True
    relative_positions: bool = True
    relative_times: bool = True
    """Attention knows how old an event is when the answer is asked for."""
    temperature: NotNegative = 0.0
    """Above 0: logits are cosines over this; 0: inner products."""

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, stated: Any) -> Any:
        preset = PRESETS.get(stated.get("preset", "")) if isinstance(stated, dict) else None
        return {**preset, **stated} if preset else stated


class TrainSettings(Section):
    epochs: Count = 12
    batch_tokens: Count = 3_200
    """Positions in one batch, padding included."""
    loss: Literal["full", "sampled", "gbce"] = "full"
    """full: softmax over all items; sampled: over shared negatives, corrected; gbce: calibrated binary."""
    negatives: Count = 512
    """Shared negatives a step, for the sampled losses."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the full softmax."""
    optimizer: Literal["adamw", "sgd", "adagrad"] = "adamw"
    embedding_optimizer: Literal[
        "same", "adamw", "sgd", "adagrad", "sparse_adam", "rowwise_adagrad", "ftrl", "rowwise_ftrl"
    ] = "same"
    """Of the item table; same: what `optimizer` names."""
    learning_rate: Positive = 2e-3
    """At the schedule's peak."""
    embedding_learning_rate: NotNegative = 0.0
    """Of the item table; 0: `learning_rate`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW and sparse Adam."""
    weight_decay: NotNegative = 0.0
    ftrl_beta: NotNegative = 1.0
    ftrl_l1: NotNegative = 0.0
    ftrl_l2: NotNegative = 0.0
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training over which the learning rate rises."""
    floor: Share = 0.05
    """Share of the peak below which the learning rate never falls."""
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    clip_norm: NotNegative = 0.0
    """Largest length of all gradients together; 0: no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the weights' moving average, which is kept in place of the last weights; 0: none."""
    sparse: Literal["auto", "dense", "sparse"] = "auto"
    """Gradients of the item table, for the sampled losses and algorithms that take sparse ones."""
    dp_clip: NotNegative = 0.0
    """Differential privacy: the largest length of one user's share in a step; 0: no privacy."""
    dp_noise: NotNegative = 0.0
    """The noise on a step's summed gradient, as a multiple of `dp_clip`."""
    dp_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """The δ that ε is stated for; must be below 1 / users."""
    dp_users: Count = 256
    """Users that a private step draws on average."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better NDCG@10 on the newest tenth of the training's events before it stops; 0: never."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda` without CUDA is an error, never a silent fallback."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products in training; auto: bfloat16 where the processor multiplies it natively."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes half the cores, at least one."""
    checkpoint_every_steps: Count = 50


class ObjectiveSettings(Section):
    """The loss beyond the plain next item. The defaults add nothing to it, and cost nothing."""

    gbce_calibration: Share = 0.75
    """t of [train] loss = "gbce": 0 is plain binary cross-entropy, 1 gives calibrated probabilities."""
    behaviour_weights: dict[str, NotNegative] = {}
    """Weight of each target's behaviour; those not named weigh 1."""
    behaviour_queries: bool = False
    """Ask the network for the target's behaviour, by a learned vector for each."""
    behaviour_untold: Share = 0.5
    """Share of the targets that are told without naming their behaviour."""
    behaviour_tasks: bool = False
    """Each behaviour's next item is a task of its own, so that rare behaviours weigh as much as frequent ones."""
    rating_weight: NotNegative = 0.0
    """Weight of predicting the target's value, in squared standard deviations; 0: off."""
    rating_loss: Literal["mse", "huber"] = "mse"
    rating_behaviour: str = "rating"
    """Whose events' values are predicted; those of another behaviour have another unit."""
    task_weighting: Literal["fixed", "uncertainty"] = "fixed"
    """`uncertainty`: the weights are learned, and start as stated."""
    self_supervised: Share = 0.0
    """α of α·L_self-supervised + (1 − α)·L_supervised; 0: off."""
    masked_weight: NotNegative = 1.0
    """Weight of masked items within L_self-supervised."""
    masked_share: Share = 0.2
    """Share of the positions that are hidden; at least one of each history is."""
    masked_causal: bool = False
    """Hidden items are told from what stands before them alone, not from both sides."""
    masked_text_weight: NotNegative = 0.0
    """Weight of predicting the hidden item's text vector, within L_self-supervised."""
    masked_text_temperature: NotNegative = 0.1
    """Of its InfoNCE; 0: one minus the cosine instead."""
    contrastive_weight: NotNegative = 0.1
    """Weight of two views of a history being alike, within L_self-supervised."""
    contrastive_temperature: Positive = 0.5
    crop_share: Share = 0.6
    """Of a history's positions: what a cropped view keeps."""
    view_mask_share: Share = 0.3
    """What a masked view hides."""
    reorder_share: Share = 0.6
    """What a reordered view shuffles."""
    adversarial_epsilon: NotNegative = 0.0
    """Length by which a history's item vectors are moved against the loss; 0: off. Doubles the price of a step."""
    adversarial_weight: NotNegative = 1.0
    """Weight of the loss under that move."""
    robust: Literal["none", "soften", "truncate"] = "none"
    """Targets that the network finds unlikely weigh less (`soften`), or the least likely weigh nothing (`truncate`)."""
    robust_power: NotNegative = 0.1
    """`soften`: a target weighs its probability to this power."""
    robust_share: Share = 0.05
    """`truncate`: the share of a step's targets that weigh nothing."""
    bot_threshold: NotNegative = 0.0
    """Users whose rate or repetition lies more than this many robust deviations above the median weigh less; 0: off."""


class FeatureSettings(Section):
    """What else of users the network sees, from the attributes of the users table as of each event."""

    user: dict[str, Literal["category", "number"]] = {}
    """Attribute → kind. A value, or a bucket of numbers, of fewer than [privacy] k users counts as unknown."""
    buckets: Count = 10
    """Quantiles that a number is cut at."""


class ModalitySettings(Section):
    """What items say, look or sound like, beside their ids. docs/modalities.md tells more."""

    kind: Literal["text", "image", "audio", "vector"] = "text"
    columns: tuple[str, ...] = ()
    """Columns of the items table; `attributes.NAME` is one of the attributes. Texts are joined; of a picture or sound
    the column holds the path or URL. Empty: the title for texts, the entry of `vectors` with this modality's name."""
    encoder: str = ""
    """A folder or hub name for Hugging Face's AutoModel. `vector` has none."""
    adapter: Literal["none", "lora", "prefix", "bottleneck"] = "none"
    """How a full retrain fine-tunes the encoder on which items follow each other."""
    adapter_rank: Count = 8
    """LoRA's rank, the bottleneck's width, or the number of prefix tokens."""
    adapter_steps: Count = 100
    adapter_learning_rate: Positive = 1e-3
    """Prefixes want some ten times more."""
    dims: Annotated[int, Field(ge=0)] = 64
    """Whitened directions of the vectors that the network sees; 0: as many as the vectors have."""
    id_dropout: Share = 0.1
    """Share of the items, a step, that are trained without their id; 1: ids are never used beside this modality."""
    max_tokens: Count = 128
    """Longer texts are cut."""
    new_items: bool = True
    """Available items that nobody has met yet may be recommended, on the strength of this modality."""


class IncrementSettings(Section):
    epochs: Count = 3
    learning_rate: Positive = 1e-3
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the positions trained on that come from before the parent's data versions."""
    min_new_events: Count = 1


class EvaluationSettings(Section):
    holdout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Newest share of the (new) events, by event time, that is tested on and not trained on."""
    k: Count = 10
    max_users: Count = 5_000
    """Rows are a seeded sample of at most this many users."""
    tolerance: Share = 0.02
    """A challenger whose NDCG@k is below the champion's by more than this share is no candidate."""


class RangeSettings(Section):
    """Values that a search may try: from `low` to `high`, or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Ten to a hundred is as far as one to ten."""
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> "RangeSettings":
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log needs a low above 0")
        return self


class TuneSettings(Section):
    metric: str = ""
    """Of the offline evaluation: `ndcg@10`, `mrr`, or in a slice or of a behaviour, `ndcg@10:new_items`. Empty: NDCG@k
    with the k of [evaluation]."""
    minutes: Positive = 60.0
    """A run of the search ends after this long."""
    trials: Count = 40
    """The search ends with this many, the present settings among them."""
    seed: int = 0
    first_epochs: Count = 2
    """A trial is not judged before this many epochs."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """Of the trials that come this far, one in so many goes on to so many times the epochs."""
    model: dict[str, RangeSettings] = {}
    """Key of [model] → what to try. With this and `train` empty, the usual ones."""
    train: dict[str, RangeSettings] = {}


class ReleaseSettings(Section):
    parity_top10: Share = 0.99
    """Smallest mean overlap of the ten best between torch and ONNX Runtime."""
    parity_max_abs: Positive = 1e-4
    """Largest score difference between torch and ONNX Runtime."""


class ServingSettings(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8890
    flush_seconds: Positive = 2.0
    """Open exposure and feedback files are handed to the landing folder after this long."""
    flush_rows: Count = 20_000
    token_days: Positive = 30.0
    """Feedback tokens are refused after this long."""
    poll_seconds: Positive = 0.5
    """How often serving asks the ledger who is champion."""
    threads: Count = 1
    """ONNX Runtime's threads."""
    device: Literal["cpu", "cuda"] = "cpu"


class PolicySettings(Section):
    exploration: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability, a slot, of a uniform draw from the candidates in place of the best one."""
    candidates: Count = 50
    """Size of the candidate set: the best by score after exclusions."""
    exclude_seen: bool = True
    """Leave out the items of the user's history, in serving and in evaluation."""


class MetricSettings(Section):
    outcome: str = "click"
    """Behaviour whose events with an exposure count."""
    per: Literal["impression"] = "impression"
    value: Literal["count", "sum"] = "count"
    """`count`: at most one a shown item; `sum`: the events' values."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Non-inferiority margin as a guardrail, relative."""


class TrialSettings(Section):
    metric: str = "clicks"
    guardrails: tuple[str, ...] = ()
    allocation: Annotated[float, Field(gt=0, lt=1)] = 0.5
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.025
    """One-sided."""
    spending: Literal["obf", "hsd"] = "obf"
    window_hours: Positive = 24.0
    """Attribution window W: a user's outcome is frozen this long after the first exposure."""
    minimum_effect: Positive = 0.02
    """Minimum detectable effect, relative to the champion's rate."""
    n_max: Count = 20_000
    """Matured users in both arms at which all alpha is spent."""
    min_users: Count = 400
    """Matured users before the first look decides."""
    deadline_days: Positive = 28.0
    looks: Count = 10
    """Planned looks; the boundary is computed at the information that each look really has."""
    srm_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    harm_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    metrics: dict[str, MetricSettings] = {"clicks": MetricSettings()}


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
    ingest_seconds: Annotated[int, Field(ge=30)] = 60
    incremental_minutes: Count = 60
    full_retrain_days: Count = 7
    trial_minutes: Count = 15
    maintenance_hours: Count = 24
    """Tables are compacted, and what is older than [lake] keep_days is dropped."""


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
    evaluation: EvaluationSettings = EvaluationSettings()
    tune: TuneSettings = TuneSettings()
    release: ReleaseSettings = ReleaseSettings()
    serving: ServingSettings = ServingSettings()
    policy: PolicySettings = PolicySettings()
    trial: TrialSettings = TrialSettings()
    ledger: LedgerSettings = LedgerSettings()
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
        if variable.startswith(PREFIX) and separator and section in Settings.model_fields:
            found[section, key] = text
    return found


def _explain(file: str, problem: Any, variables: dict[tuple[str, str], str]) -> str:
    place = [str(part) for part in problem["loc"]]
    key, sections = place[-1], place[:-1]
    if len(place) >= 2 and (place[0], place[1]) in variables:
        where = f"environment {PREFIX}{place[0].upper()}__{place[1].upper()}: "
    else:
        where = f"{file}: " + (f"[{'.'.join(sections)}] " if sections else "")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known(sections), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(_known(sections)))}"
        return f"{where}{key} is not a setting{hint}"
    if place[0] == "sources" and (len(place) < 3 or "options" in place):
        return f"{where}{key}: {problem['msg']}"  # an option may be a secret
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
    return list(model.model_fields)


def find_settings(home: Path, stated: Path | None) -> Path | None:
    """The settings file in force: the stated one, else the home's, else that of the working directory."""
    if stated is not None:
        return stated
    return next((file for file in (home / "ratchet.toml", Path("ratchet.toml")) if file.exists()), None)
