"""The settings that decide what a training learns, and how it is judged.

The same names and defaults as the options of `model/`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stores.sections import Count, NotNegative, Positive, Section, Share

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
    small_events: Annotated[int, Field(ge=0)] = 10_000
    """With fewer events a full retrain first tries, on users held out, how long to train and how far to trust the
    network against popularity; 0: never."""
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
    """How the model goes on with what is new. docs/continual.md says what each costs and gives."""

    epochs: Count = 4
    learning_rate: Positive | None = None
    """At the schedule's peak; unset: half of [train]'s. Higher where a market turns over in weeks, or `line_search`."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """Each increment runs through it anew, without a warm-up, down to [train] floor."""
    negatives: Count | None = None
    """Of the sampled losses, a step; unset: half as many again as [train] has, whose steps are more."""
    dropout: Share | None = None
    """While it goes on; unset: that of [model]."""
    line_search: bool = False
    """Try half and twice the learning rate on a few steps first, and take the best."""
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of the targets trained on that come from before the parent's data versions."""
    replay: Literal["reservoir", "recent", "exemplars"] = "recent"
    """What of the past the buffer keeps: any piece of a history alike, the newer the likelier, or a share for each
    item."""
    replay_events: Count = 200_000
    """Events that the replay buffer holds."""
    replay_half_life_days: Positive = 30.0
    """`recent`: a piece this much older is half as likely to be kept."""
    distillation: NotNegative = 0.0
    """Weight of staying near the champion's answers; 0: off."""
    distillation_temperature: Positive = 1.0
    ewc: NotNegative = 0.0
    """Weight of staying near the parent's weights, each by its Fisher information; 0: off."""
    trained: Literal["all", "items", "lora"] = "all"
    """all weights; the item table and biases; or those and low-rank additions to the blocks, merged at the end."""
    lora_rank: Count = 8
    min_new_events: Count = 1


class RetrainSettings(Section):
    """When the model goes on, and when it begins anew (`ratchet train --mode auto`). [schedules] says how often this is
    asked; this says what is answered. docs/schedules.md tells how the measures are made."""

    max_age_days: Positive = 28.0
    """A full retrain at least this often, where there is anything new."""
    cool_down_days: NotNegative = 1.0
    """After a full retrain none is made on evidence for so long."""
    confirmations: Count = 2
    """Decisions in a row, each on other events, that must see decay alone, or drift that cannot be tested, before a
    full retrain. Decay together with drift needs no second look."""
    decay: Share = 0.1
    """Share that is lost on new events of the last full retrain's NDCG@k, or the parent's where that is better."""
    psi: NotNegative = 0.25
    """Population stability index of behaviours and item popularity, beyond chance and the usual, in nats."""
    ks: Share = 0.15
    """Kolmogorov-Smirnov distance of gaps between events and of session lengths, beyond chance and the usual."""
    new_items: Share = 0.2
    """Rise of the share of events on items that were not there, beyond chance and the usual."""
    item_vectors: NotNegative = 0.1
    """One minus the cosine of the mean vectors of the items met, beyond chance and the usual."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Chance that one measure seems beyond chance when nothing has changed."""
    window_days: Positive = 7.0
    """Events as new as this are judged, and those since the last full retrain at most."""
    reference_days: Positive = 28.0
    """Events of the last full retrain that the new ones are compared with, from its cutoff backwards."""
    max_users: Count = 2_000
    """Users on whom new events are tested before they are trained on."""
    min_new_share: Share = 0.001
    """New events below this share of all events wait for more."""
    max_cost_ratio: Positive = 1.0
    """An increment that is expected to take more than this share of a full retrain's time is made a full retrain."""


class OnlineSettings(Section):
    """Micro-increments between the increments, published as deltas of the champion. docs/continual.md says how."""

    enabled: bool = False
    """Schedules the steps. Each still needs a person's standing approval: `ratchet online allow`."""
    minutes: Count = 5
    """Between two scheduled steps."""
    optimizer: Literal["rowwise_adagrad", "ftrl", "rowwise_ftrl"] = "rowwise_adagrad"
    """Of the item table and the items' biases."""
    learning_rate: Positive = 1e-3
    """Of the item table and the items' biases; for FTRL its α, which wants some hundred times more."""
    body_learning_rate: NotNegative = 0.0
    """Of everything else, by plain SGD; 0: it stays as it is, and only rows are published."""
    batch_events: Count = 128
    """New events in one gradient step."""
    negatives: Count = 256
    """Items that a gradient step tells from the right ones, drawn from the stream and what is replayed."""
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of the targets trained on that come from before."""
    replay_users: Count = 200
    """Users whose histories a step replays from, beside those of whom there is news."""
    test_users: Count = 500
    """Users on whose new events model and base are tested before the step."""
    test_rows: Count = 3_000
    """Newest tested events that the guardrail judges."""
    margin: Share = 0.05
    """The steps end when their NDCG@k is below the base's by more than this share, beyond chance."""
    probe_users: Count = 200
    """Users, as the base knew them, whose ten best must stay."""
    overlap: Share = 0.6
    """Least share of the base's ten best that is kept, on average."""
    hours: Positive = 24.0
    """A standing approval ends after so long, unless it says otherwise; so do the limits below."""
    deltas: Count = 300
    rows: Count = 200_000
    """That a delta may change."""
    relative_change: Positive = 1.0
    """Largest change of a row, in lengths of the row, or of rows on average where it is shorter."""
    keep: Count = 3
    """Newest deltas, and states to go on from, that are kept."""


class EvaluationSettings(Section):
    holdout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Newest share of the (new) events, by event time, that is tested on and not trained on."""
    k: Count = 10
    max_users: Count = 5_000
    """Rows are a seeded sample of at most this many users."""
    tolerance: Share = 0.02
    """A challenger is no candidate whose NDCG@k is below the champion's by more than this share, where the interval of
    the difference over users says that it is no accident."""


class ForgettingSettings(Section):
    """What a challenger may lose of what the champion ranked well, and how much it may change what people see.

    Both are measured on the panel: users of whom nothing is ever learnt, so that no model has their rows by heart.
    """

    users_share: Share = 0.05
    """Share of the users, by a hash of their ids, that is the panel. 0: none, and nothing is measured. A champion that
    was trained before this was raised has learnt from its new members: retrain it in full."""
    min_users: Count = 20
    """A cohort of fewer users says nothing, and a panel of fewer is not kept."""
    rows_per_user: Count = 50
    """Newest events of a user of the panel that are ranked."""
    margin: Share = 0.02
    """A challenger is no candidate that loses more than this share of the champion's NDCG@k on a cohort, where the
    interval over users says that it is no accident."""
    overlap: Share = 0.7
    """An increment is no candidate whose best k share less than this with the champion's, mean over users."""
    shift: NotNegative = 0.3
    """… whose scores lie further than this from the champion's, in standard deviations of these. Wide, for an increment
    may be as large as all before it; docs/continual.md says how to set it by your own."""
    surge: Share = 0.5
    """… that brings one item into the best k of more than this share of the users."""
    full_overlap: Share = 0.1
    """The same of a full retrain, which may rightly change more."""
    full_shift: NotNegative = 1.5
    full_surge: Share = 0.5


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
