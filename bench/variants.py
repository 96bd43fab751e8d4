"""What the forms of a release are worth: int8, float16, a student and a pruned network beside float32.

`ratchet bench variants --data FOLDER` trains the default network on the older nine tenths of a stream (MovieLens 100k,
DIGINETICA's weeks or Amazon 2023, as `continual` reads them), exports it and makes every form as a release with
`[release] variants` would: NDCG@10 on the newest tenth with seen items left out, time in turns against float32 on one
thread. `--preset hstu` takes HSTU blocks.

A form that a release would keep has the bar that it was kept by; of one that it would refuse the row says why.
"""

from pathlib import Path
from typing import Any

from bench.continual_data import read
from bench.rows import Row, at_least, at_most
from relations.errors import UsageError

DATA = Path("../shared/data/ml-100k")
BLOCKS = ("softmax", "hstu")
TOP10, LARGEST, LOSS = 0.99, 1e-4, 0.5


def run(data: Path | None = None, preset: str = "softmax", epochs: int = 12) -> list[Row]:
    """One row a figure. Raises UsageError without the data."""
    if preset not in BLOCKS:
        raise UsageError(f"variants has no preset {preset!r}; known: {', '.join(BLOCKS)}")
    rows: list[Row] = []
    for found in table(DATA if data is None else data, block=preset, epochs=epochs):
        rows += _rows(found)
    return rows


def table(data: Path, *, block: str, epochs: int) -> list[dict[str, Any]]:
    """The release's table, as its attestation holds it."""
    from model.compression.forms import Form
    from model.compression.variants import VariantOptions, make_variants
    from model.export import export_graph, parity_rows
    from model.fit import fit_full
    from model.options import Device, NetworkOptions, TrainOptions
    from model.parity import measure_parity
    from model.sequences import split_by_time

    split = split_by_time(read(data).histories, holdout_share=0.1)
    training = TrainOptions(epochs=epochs, device=Device.CPU, threads=1)
    fitted = fit_full(split.train, network=NetworkOptions(block=block), training=training)
    graph = export_graph(fitted.ranker).SerializeToString(deterministic=True)
    parity = measure_parity(
        fitted.ranker, graph, sequences=parity_rows(fitted, split.train), max_abs=LARGEST, top10=TOP10
    )
    made = make_variants(
        fitted,
        graph,
        parity=parity,
        forms=list(Form),
        train=split.train,
        holdout=split.holdout,
        withdrawn=(),
        training=training,
        options=VariantOptions(),
    )
    return [each.row.as_json() for each in made]


def _rows(found: dict[str, Any]) -> list[Row]:
    name = found["name"]
    if found["ndcg_loss"] is None:
        return [{"name": f"{name}: {found['why']}", "measured": None, "unit": "", "bar": None, "holds": None}]
    loss = round(100 * found["ndcg_loss"], 3)
    rows = []
    if name == "fp32":
        rows.append(at_least("fp32: ten best shared with torch", found["top10_agreement"], TOP10, unit=""))
        rows.append(at_most("fp32: largest difference from torch", found["max_abs_diff"], LARGEST, unit=""))
        rows.append(_told("fp32: NDCG@10", round(found["ndcg"], 4)))
    elif found["kept"]:
        rows.append(at_most(f"{name}: kept; NDCG@10 loss", loss, LOSS))
    else:
        rows.append(_told(f"{name}: refused ({found['why']}); NDCG@10 loss", loss, unit="%"))
    rows.append(_told(f"{name}: kilobytes", round(found["bytes"] / 1e3)))
    if name != "fp32":
        rows.append(_told(f"{name}: ten best shared with torch", round(found["top10_agreement"], 4)))
    for batch in (1, 32):
        ms, whole = found[f"ms_batch_{batch}"], found[f"fp32_ms_batch_{batch}"]
        beside = "" if name == "fp32" else f", fp32 in turns {whole:.3f}"
        rows.append(_told(f"{name}: batch {batch} on {found['provider']}{beside}", round(ms, 3), unit="ms"))
    return rows


def _told(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}
