"""A release's graph in other forms, each measured against the released one and kept only where it holds.

fp32 holds by parity with torch alone. Any other form is kept where its NDCG@10 on held-out rows is at most a share
below torch's; int8, student and pruned only where they are measured to be faster as well, at batch 1 and at 32, on the
provider that they would serve on. float16 is for accelerators, and is not asked to be faster on a CPU.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from model.compression.forms import BATCHES, TIMED, Form, Made, Row, finite, fp32_row, percent, refused_row
from model.compression.pruning import PruneOptions, prune
from model.compression.quantising import dynamic_int8, half, static_int8
from model.compression.running import PROVIDERS, GraphRecommender, feed_of, medians_in_turns, open_session
from model.compression.student import StudentOptions, distil_student
from model.evaluation import Evaluation, RankerRecommender, Recommender, compare, evaluate
from model.export import export_graph, parity_rows
from model.fitted import Fitted
from model.offered import Offered, offered_rows
from model.options import TrainOptions
from model.parity import TOP, Parity, measure_parity, stretches
from model.sequences import Histories, Holdout
from relations.errors import RatchetError, UsageError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantOptions:
    """`ndcg_loss`: the largest share of NDCG@10 that a variant may lose; `rows`: held-out rows below which nothing is
    judged; `speedup`: float32's time over a variant's that is faster; `device`: what it would serve on; `candidates`:
    how many best are chosen while time is measured."""

    ndcg_loss: float = 0.005
    rows: int = 200
    speedup: float = 1.05
    device: str = "cpu"
    candidates: int = 50
    exclude_seen: bool = True
    max_abs: float = 1e-4
    top10: float = 0.99
    student: StudentOptions = field(default_factory=StudentOptions)
    prune: PruneOptions = field(default_factory=PruneOptions)


def make_variants(
    fitted: Fitted,
    graph: bytes,
    *,
    parity: Parity,
    forms: Collection[Form],
    train: Histories,
    holdout: Holdout,
    withdrawn: Collection[str],
    training: TrainOptions,
    options: VariantOptions,
    run: Path | None = None,
) -> list[Made]:
    """The table of a release, float32 first: `forms` made from `graph` and from `fitted`, which it was exported from.

    int8 is calibrated and student and pruned are taught on `train`; all are judged on `holdout`. A form that cannot be
    made or judged is a row that says why, and never stops the release. `run` holds checkpoints of what is taught.
    """
    judge = Judge(fitted, graph, train=train, holdout=holdout, withdrawn=withdrawn, options=options)
    made = [Made(judge.completed(fp32_row(parity, size=len(graph))))]
    for form in sorted(set(forms) - {Form.FP32}, key=list(Form).index):
        if judge.refusal:
            made.append(Made(refused_row(form, judge.refusal)))
            continue
        try:
            found = _make(form, fitted, graph, train=train, training=training, options=options, judge=judge, run=run)
            made.append(judge(form, *found))
        except RatchetError as error:
            made.append(Made(refused_row(form, str(error))))
        except Exception as error:  # ONNX Runtime's own classes have no common base
            _LOG.exception("variant %s cannot be made", form)
            made.append(Made(refused_row(form, f"cannot be made: {type(error).__name__}: {error}")))
    return made


def _make(
    form: Form,
    fitted: Fitted,
    graph: bytes,
    *,
    train: Histories,
    training: TrainOptions,
    options: VariantOptions,
    judge: "Judge",
    run: Path | None,
) -> tuple[bytes, Fitted]:
    """The form's graph, and the ranker that it must reproduce: another one where the network is another."""
    smaller: Fitted | None = None
    if form is Form.STUDENT:
        smaller = distil_student(fitted, train, student=options.student, training=training, run=run and run / form)
    elif form is Form.PRUNED:
        smaller = prune(fitted, train, options=options.prune, training=training, run=run and run / form)
    if smaller is not None:
        return export_graph(smaller.ranker).SerializeToString(deterministic=True), smaller
    model = onnx.load_from_string(graph)
    if form is Form.INT8_STATIC and fitted.privacy is not None:
        raise UsageError("[train] dp_clip: ranges read from the events have no privacy bound; take int8 instead")
    quantise: dict[Form, Callable[[], onnx.ModelProto]] = {
        Form.FP16: lambda: half(model),
        Form.INT8: lambda: dynamic_int8(model),
        Form.INT8_STATIC: lambda: static_int8(model, judge.feeds()),
    }
    return quantise[form]().SerializeToString(deterministic=True), fitted


class Judge:
    """Measures graphs against one released ranker, and says which are kept.

    `refusal`: why none can be judged; empty where they can.
    """

    def __init__(
        self,
        fitted: Fitted,
        graph: bytes,
        *,
        train: Histories,
        holdout: Holdout,
        withdrawn: Collection[str],
        options: VariantOptions,
    ) -> None:
        self._fitted, self._graph, self._options = fitted, graph, options
        self._holdout, self._withdrawn = offered_rows(holdout, withdrawn=withdrawn), withdrawn
        self._sequences = parity_rows(fitted, train)
        self._torch = self._evaluate(RankerRecommender.of(fitted))
        self.refusal = ""
        if len(self._torch) < options.rows:
            self.refusal = (
                f"{len(self._torch)} held-out rows, fewer than variant_rows = {options.rows}: its ranking cannot be "
                "judged"
            )
        elif not self._ndcg(self._torch):
            self.refusal = f"torch's ranker has no held-out item among its {TOP} best: there is nothing to compare with"

    def completed(self, row: Row) -> Row:
        """float32's row with what the others are compared by."""
        if self.refusal:
            return replace(row, rows=len(self._torch))
        recommender = self._recommender(self._graph, device="cpu")
        (ms,), provider = self._times(self._graph)
        return replace(row, **self._ranking(recommender), ms=ms, fp32_ms=ms, provider=provider)

    def __call__(self, form: Form, graph: bytes, ranker: Fitted) -> Made:
        """`graph` as `form`; `ranker` is the one that it must reproduce, in its own precision."""
        options = self._options
        parity = self._parity(graph, self._fitted)
        own = parity if ranker is self._fitted else self._parity(graph, ranker)
        (ms, fp32_ms), provider = self._times(graph, self._graph)
        row = Row(
            name=form,
            file=form.file,
            precision=form.precision,
            kept=False,
            why="",
            bytes=len(graph),
            top10_agreement=parity.top10_agreement,
            max_abs_diff=finite(parity.max_abs_diff),
            **self._ranking(self._recommender(graph, device=options.device)),
            ms=ms,
            fp32_ms=fp32_ms,
            provider=provider,
            state="release" if ranker.ranker.config.width == self._fitted.ranker.config.width else "own",
        )
        why = self._against(row, own=own, exact=ranker is not self._fitted)
        row = replace(row, kept=not why, why="; ".join(why) or self._praise(row))
        return Made(row, graph if row.kept else None)

    def feeds(self) -> list[dict[str, np.ndarray]]:
        """Inputs of the graph from stretches of the users' real histories, to calibrate with."""
        return [feed_of(inputs, items=len(self._fitted.vocabulary), k=1) for inputs in self._stretches()]

    def _against(self, row: Row, *, own: Parity, exact: bool) -> list[str]:
        """What speaks against keeping it. `exact`: it is a float32 network of its own."""
        options, found = self._options, []
        if exact and not own.holds:
            found.append(
                f"ONNX Runtime does not reproduce it: top-10 agreement {own.top10_agreement:.4f}, "
                f"largest difference {own.max_abs_diff:.2g}"
            )
        if row.ndcg_loss is None or not row.ndcg_loss <= options.ndcg_loss:
            found.append(f"NDCG@{TOP} loss {percent(row.ndcg_loss)}, at most {percent(options.ndcg_loss)}")
        if row.name in TIMED:
            if row.provider != PROVIDERS[options.device]:
                found.append(f"measured on {row.provider}, and would serve on {PROVIDERS[options.device]}")
            slower = [
                f"{row.ms[batch]:.3g} ms against {row.fp32_ms[batch]:.3g} at batch {batch}"
                for batch in BATCHES
                if row.ms and row.fp32_ms and row.fp32_ms[batch] < options.speedup * row.ms[batch]
            ]
            if slower:
                found.append(f"not {options.speedup:g} times as fast: {', '.join(slower)}")
        return found

    def _praise(self, row: Row) -> str:
        assert row.ms is not None
        assert row.fp32_ms is not None
        times = ", ".join(f"{row.fp32_ms[batch] / row.ms[batch]:.2f} times at batch {batch}" for batch in BATCHES)
        return f"NDCG@{TOP} loss {percent(row.ndcg_loss)}; speed {times}"

    def _evaluate(self, recommender: Recommender) -> Evaluation:
        offered = Offered(recommender, withdrawn=self._withdrawn)
        return evaluate(offered, self._holdout, k=TOP, exclude_seen=self._options.exclude_seen, draws=0)

    @staticmethod
    def _ndcg(evaluation: Evaluation) -> float:
        return evaluation.overall[f"ndcg@{TOP}"]

    def _ranking(self, recommender: Recommender) -> dict[str, Any]:
        found, reference = self._evaluate(recommender), self._ndcg(self._torch)
        apart = compare(found, self._torch)
        return {
            "rows": len(found),
            "ndcg": self._ndcg(found),
            "ndcg_loss": (reference - self._ndcg(found)) / reference,
            "ndcg_low": apart.low,
            "ndcg_high": apart.high,
        }

    def _recommender(self, graph: bytes, *, device: str) -> Recommender:
        fitted = self._fitted
        return GraphRecommender(
            open_session(graph, device=device),
            fitted.vocabulary.items,
            max_history=fitted.ranker.config.max_history,
            features=fitted.features,
        )

    def _parity(self, graph: bytes, ranker: Fitted) -> Parity:
        return measure_parity(
            ranker.ranker, graph, sequences=self._sequences, max_abs=self._options.max_abs, top10=self._options.top10
        )

    def _stretches(self) -> list[Any]:
        return list(stretches(self._fitted.ranker, self._sequences, np.random.default_rng(0)))

    def _times(self, *graphs: bytes) -> tuple[list[dict[int, float]], str]:
        """Median milliseconds of each graph by batch size, in turns, and the provider that ran."""
        sessions = [open_session(graph, device=self._options.device) for graph in graphs]
        items, length = len(self._fitted.vocabulary), self._fitted.ranker.config.max_history
        found: list[dict[int, float]] = [{} for _ in graphs]
        for inputs in self._stretches():
            if inputs.row_BL.shape[1] == length and len(inputs.row_BL) in BATCHES:
                feed = feed_of(inputs, items=items, k=min(self._options.candidates, items), excluded_BE=inputs.row_BL)
                for ms, took in zip(found, medians_in_turns(sessions, feed), strict=True):
                    ms[len(inputs.row_BL)] = took
        return found, sessions[0].get_providers()[0]
