"""Settings of what is released and how it is served: sections of `ratchet.toml`. See `stores.settings`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stores.sections import Count, NotNegative, Positive, Section, Share
from stores.signatures import public_hex


class ReleaseSettings(Section):
    parity_top10: Share = 0.99
    """Smallest mean overlap of the ten best between torch and ONNX Runtime."""
    parity_max_abs: Positive = 1e-4
    """Largest score difference between torch and ONNX Runtime."""
    ann_above: Count = 100_000
    """From so many items on a release gets an index of their vectors, through which serving finds the best without
    scoring all. Below, a search is hardly faster (`ratchet bench nearest`)."""
    ann_recall: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Smallest share of the exact best 100 (of the best [policy] candidates, where those are more) that a search must
    find on held-out histories, with 95 % confidence; where it does not, all items are scored."""
    variants: tuple[Literal["fp16", "int8", "int8_static", "student", "pruned"], ...] = ()
    """Other forms of the network in a release, beside float32. Each is kept only where its ranking holds, and all but
    fp16 only where they are measured to be faster: what such a release holds depends on a measured time."""
    variant_ndcg_loss: Share = 0.005
    """The largest share of torch's NDCG@10 on held-out rows that a variant may lose."""
    variant_rows: Count = 200
    """With fewer held-out rows no variant's ranking is judged, and none is kept."""
    variant_speedup: Annotated[float, Field(ge=1)] = 1.05
    """float32's median time over a variant's, at batch 1 and at 32, from which on it is faster."""
    student_width: Annotated[int, Field(ge=0)] = 0
    """Of the student's states; 0: the ranker's. A narrower one has item vectors of its own."""
    student_blocks: Annotated[int, Field(ge=0)] = 0
    """0: half of the ranker's, at least one."""
    student_epochs: Count = 6
    student_weight: NotNegative = 1.0
    """What the ranker's answers weigh in the student's loss, beside the events."""
    student_temperature: Positive = 1.0
    """Of both sides' probabilities."""
    pruned_heads: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of all attention heads that go, rounded down; each block keeps one."""
    pruned_channels: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of each feed-forward layer's channels that go (softmax blocks)."""
    pruned_epochs: Annotated[int, Field(ge=0)] = 2
    """Of training what pruning left, taught by the whole ranker; 0: none."""
    signing_key: str = ""
    """A file with a private key (`ratchet release keygen`), which signs each release, online delta and index of new
    items as it is written; empty: none is signed."""

    @field_validator("variants", mode="before")
    @classmethod
    def _from_words(cls, stated: object) -> object:
        """The environment has no lists: `RATCHET_RELEASE__VARIANTS=int8,student`."""
        return [word.strip() for word in stated.split(",") if word.strip()] if isinstance(stated, str) else stated


class ServingSettings(Section):
    host: str = "127.0.0.1"
    """An address; one beyond loopback only where an API key was made. Plain HTTP: TLS belongs to a proxy in front."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8890
    flush_seconds: Positive = 2.0
    """Open exposure and feedback files are handed to the landing folder after this long."""
    flush_rows: Count = 20_000
    fsync_seconds: Positive = 1.0
    """How often written exposures and feedback are forced to the disk: what a power cut may lose."""
    exposures_waiting: Count = 200_000
    """Exposure rows that may wait in memory for a slow disk; beyond them answers are refused."""
    shadow_waiting: Count = 256
    """Requests that may wait for a quiet moment in which a challenger in the shadow is asked; more are dropped."""
    token_days: Positive = 30.0
    """Feedback tokens are refused after this long."""
    poll_seconds: Positive = 0.5
    """How often serving asks the ledger who is champion."""
    threads: Count = 1
    """ONNX Runtime's threads, for each worker."""
    workers: Count = 1
    """Batches that run side by side."""
    batch: Count = 32
    """The most queries that a network is asked together. Nobody waits for company: a batch is what came meanwhile."""
    queue_ms: Positive = 200.0
    """Latency budget: a request that would wait longer for a network is refused with 503 and Retry-After."""
    timeout_ms: Positive = 1000.0
    """A query that did wait longer is dropped."""
    device: Literal["cpu", "cuda"] = "cpu"
    variant: Literal["fp32", "fp16", "int8", "int8_static", "student", "pruned"] = "fp32"
    """Which form of a release serves. A release without that form is not served: see [release] variants."""
    user_state: str = ""
    """Where users' newest events and preferences are kept: empty for SQLite in the home, which is for one server, or a
    redis://, rediss:// or unix:// URL of a Redis (6.2 or newer), which several servers share."""
    user_state_options: dict[str, str] = {}
    """For Redis: username, password, ssl_ca_certs and the like. `env:NAME` stands for that variable's value."""
    user_state_timeout_ms: Positive = 50.0
    """What an answer waits for Redis at most; after that it is given without the user's history."""
    user_state_days: Positive = 365.0
    """Redis drops a user's events this long after the last one."""
    new_items: bool = True
    """Items that came after the release are recommended from what they say of themselves; ingest keeps the side index
    that holds them."""
    new_items_most: Count = 20_000
    """The most items in a side index: the newest."""
    cache_seconds: NotNegative = 10.0
    """A network's choice is used again for the same question of the same history this long; 0 asks it each time. The
    same user's new event, a swap or another blocklist is another question. What is not noticed is that events age."""
    cache_entries: Count = 10_000
    """Choices kept at most, some 3 kB each."""
    filters_mb: Positive = 64.0
    """Memory for filters that come again, for each loaded model. A filter takes up to 9 bytes an item."""
    trusted_keys: tuple[str, ...] = ()
    """Public keys, in hex or base64. Where there are any, only what one of them signed is loaded: releases, deltas and
    indexes of new items. Several, while keys are changed."""

    @field_validator("user_state")
    @classmethod
    def _known_kind(cls, stated: str) -> str:
        if stated and not stated.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("empty for SQLite, or a redis://, rediss:// or unix:// URL")
        return stated

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _keys(cls, stated: object) -> object:
        """In hex. The environment has no lists: `RATCHET_SERVING__TRUSTED_KEYS=…,…`."""
        if isinstance(stated, str):
            stated = [word for word in stated.split(",") if word.strip()]
        if isinstance(stated, list | tuple) and all(isinstance(key, str) for key in stated):
            return [public_hex(key) for key in stated]
        return stated


class PolicySettings(Section):
    exploration: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability, a slot, of a uniform draw from the candidates in place of the best one."""
    candidates: Count = 50
    """Size of the candidate set: the best by score after exclusions."""
    exclude_seen: bool = True
    """Leave out the items of the user's history, in serving and in evaluation."""
    holdback: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of users who never meet a challenger and belong to no trial; 0.01 to 0.02 for a long-term baseline."""
    newcomers: Literal["model", "popularity"] = "model"
    """Who answers users without a known event: the model, as it learnt from users' first events and attributes, or the
    popularity list, which follows each ingest. What the model was told of a user decides in both."""
