"""What a person may choose about one modality of the items; the same names as in `[modalities.NAME]`."""

from dataclasses import dataclass
from enum import StrEnum

from relations.errors import UsageError


class Kind(StrEnum):
    TEXT = "text"
    """The columns' texts, joined."""
    IMAGE = "image"
    """The column holds the path or URL of a picture."""
    AUDIO = "audio"
    """The column holds the path or URL of a WAV file."""
    VECTOR = "vector"
    """A ready vector: the entry of that name in the items' `vectors`."""


class Adapter(StrEnum):
    NONE = "none"
    LORA = "lora"
    PREFIX = "prefix"
    BOTTLENECK = "bottleneck"


@dataclass(frozen=True)
class AdapterOptions:
    """How an encoder is fine-tuned on which items follow each other. Its own weights stay as they are."""

    adapter: Adapter = Adapter.LORA
    rank: int = 8
    """LoRA's rank, the bottleneck's width, or the number of prefix tokens."""
    steps: int = 100
    batch_pairs: int = 64
    """Pairs of items in one step; each pair's item is the others' negative."""
    learning_rate: float = 1e-3
    temperature: float = 0.05
    """Of the contrastive loss."""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", Adapter(self.adapter))


@dataclass(frozen=True)
class ModalityOptions:
    """One modality. Raises UsageError for choices that exclude each other."""

    kind: Kind = Kind.TEXT
    columns: tuple[str, ...] = ()
    """Columns of the items table (`attributes.NAME` for one of the attributes). Empty: `title` for texts, the
    modality's own name for vectors."""
    encoder: str = ""
    """A folder or hub name that `AutoModel` and its tokenizer or processor load."""
    adapter: Adapter = Adapter.NONE
    adapter_rank: int = 8
    adapter_steps: int = 100
    adapter_learning_rate: float = 1e-3
    dims: int = 64
    """Whitened directions of the vectors that the network sees; 0: as many as the vectors have."""
    id_dropout: float = 0.1
    """Share of the items, a step, that are trained without their id embedding; 1: the ids are never used."""
    max_tokens: int = 128
    """Longer texts are cut."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "adapter", Adapter(self.adapter))
        object.__setattr__(self, "columns", tuple(self.columns))
        if not 0 <= self.id_dropout <= 1:
            raise UsageError(f"[modalities] id_dropout = {self.id_dropout} is no share; choose one from 0 to 1")
        if self.kind is Kind.VECTOR:
            if self.encoder or self.adapter is not Adapter.NONE:
                raise UsageError('[modalities] kind = "vector" is ready made; leave out encoder and adapter')
            if len(self.columns) > 1:
                raise UsageError(f"[modalities] columns = {list(self.columns)}: a vector comes from one column")
            return
        if not self.encoder:
            raise UsageError(f'[modalities] kind = "{self.kind}" needs an encoder: a folder or a hub name')
        if self.kind is not Kind.TEXT and len(self.columns) != 1:
            raise UsageError(f'[modalities] kind = "{self.kind}" needs one column, which holds the path of the file')
        if self.kind is not Kind.TEXT and self.adapter is Adapter.PREFIX:
            raise UsageError('[modalities] adapter = "prefix" is for texts; use "lora" or "bottleneck"')

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns in force for the modality called `name`."""
        if self.columns:
            return self.columns
        return (name,) if self.kind is Kind.VECTOR else ("title",)

    def tuning(self, seed: int) -> AdapterOptions:
        return AdapterOptions(
            adapter=self.adapter,
            rank=self.adapter_rank,
            steps=self.adapter_steps,
            learning_rate=self.adapter_learning_rate,
            seed=seed,
        )
