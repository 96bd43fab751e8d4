"""What a release's graph can be made into, and the table that says what each form is worth.

| form | what it is | item space of its states |
|---|---|---|
| fp32 | the released graph | its own |
| fp16, int8, int8_static | the same network in fewer bits | the release's |
| student | a smaller network that was taught by the released one | the release's at its width, else its own |
| pruned | the released network without some heads and channels | the release's |

In the release's item space states mean what the released network's mean: what is looked up by state (an index of the
items, rows of new ones) then serves the variant too.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from model.parity import Parity

BATCHES = (1, 32)
"""Sizes that latency is measured at."""


class Form(StrEnum):
    """What a release's graph can be made into."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_STATIC = "int8_static"
    STUDENT = "student"
    PRUNED = "pruned"

    @property
    def file(self) -> str:
        return "model.onnx" if self is Form.FP32 else f"model.{self.value}.onnx"

    @property
    def precision(self) -> str:
        return {Form.FP16: "float16", Form.INT8: "int8", Form.INT8_STATIC: "int8"}.get(self, "float32")


TIMED = (Form.INT8, Form.INT8_STATIC, Form.STUDENT, Form.PRUNED)
"""Kept only where they are faster."""


@dataclass(frozen=True)
class Row:
    """One variant in the table. None: not measured.

    `top10_agreement`, `max_abs_diff`: against torch's released ranker. `ndcg_loss`: (torch's − its) / torch's, with
    `ndcg_low` and `ndcg_high` the 95 % interval over users of its NDCG@10 less torch's. `ms`, `fp32_ms`: median
    milliseconds by batch size, measured in turns on `provider`. `state`: whose item space its states are in, "release"
    or "own".
    """

    name: str
    file: str
    precision: str
    kept: bool
    why: str
    bytes: int | None = None
    top10_agreement: float | None = None
    max_abs_diff: float | None = None
    rows: int | None = None
    ndcg: float | None = None
    ndcg_loss: float | None = None
    ndcg_low: float | None = None
    ndcg_high: float | None = None
    ms: Mapping[int, float] | None = None
    fp32_ms: Mapping[int, float] | None = None
    provider: str | None = None
    state: str = "release"

    def as_json(self) -> dict[str, Any]:
        """Flat, with a column for each batch size."""
        stated = asdict(self)
        for name in ("ms", "fp32_ms"):
            each = stated.pop(name) or {}
            stated |= {f"{name}_batch_{batch}": each.get(batch) for batch in BATCHES}
        return stated


@dataclass(frozen=True)
class Made:
    """A variant that may be released: `graph` where it is kept."""

    row: Row
    graph: bytes | None = None

    @property
    def described(self) -> dict[str, str]:
        """For the manifest: what it is, and nothing that was measured."""
        return {"file": self.row.file, "precision": self.row.precision, "state": self.row.state}


def fp32_row(parity: Parity, *, size: int) -> Row:
    """The released graph itself, `size` bytes of it, by its parity with torch."""
    return Row(
        name=Form.FP32,
        file=Form.FP32.file,
        precision=Form.FP32.precision,
        kept=parity.holds,
        why="agrees with torch" if parity.holds else "does not reproduce torch",
        bytes=size,
        top10_agreement=parity.top10_agreement,
        max_abs_diff=finite(parity.max_abs_diff),
    )


def markdown(rows: Collection[Mapping[str, Any]]) -> str:
    """The table, of `Row.as_json`, for a page that people read."""
    head = "| form | bytes | top-10 | largest difference | NDCG@10 loss | ms at 1 | ms at 32 | provider | kept |"
    lines = [head, "|---" * 9 + "|"]
    for row in rows:
        times = [
            "" if row[f"ms_batch_{batch}"] is None
            else f"{row[f'ms_batch_{batch}']:.3f} (fp32 {row[f'fp32_ms_batch_{batch}']:.3f})"
            for batch in BATCHES
        ]  # fmt: skip
        cells = (
            row["name"],
            "" if row["bytes"] is None else f"{row['bytes']:,}",
            "" if row["top10_agreement"] is None else f"{row['top10_agreement']:.4f}",
            "" if row["max_abs_diff"] is None else f"{row['max_abs_diff']:.1e}",
            "" if row["ndcg_loss"] is None else percent(row["ndcg_loss"]),
            *times,
            row["provider"] or "",
            f"{'yes' if row['kept'] else 'no'}: {row['why']}",
        )
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def refused_row(form: Form, why: str) -> Row:
    return Row(name=form, file=form.file, precision=form.precision, kept=False, why=why)


def finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"
