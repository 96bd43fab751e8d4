"""What a release holds beside its float32 network: the forms of it that `[release] variants` asks for and that hold."""

from typing import Any

from model.compression.forms import Form, Made, fp32_row, refused_row
from model.compression.pruning import PruneOptions
from model.compression.student import StudentOptions
from model.compression.variants import VariantOptions, make_variants
from model.export import Exported
from model.fitted import Fitted
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.allowed import withdrawn_items
from tasks.jobs import TrainingJob
from tasks.material import Material
from tasks.options import options_of


def add_variants(
    home: Home, settings: Settings, job: TrainingJob, *, fitted: Fitted, exported: Exported, material: Material
) -> list[Made]:
    """Put the kept ones beside `model.onnx`; returns the table, float32 first. Without `[release] variants` that is
    all of it, and nothing is measured."""
    folder = exported.files["model.onnx"].parent
    forms = [Form(name) for name in settings.release.variants]
    size = sum(file.stat().st_size for name, file in exported.files.items() if name.startswith("model.onnx"))
    whole = Made(fp32_row(exported.parity, size=size))
    if not forms:
        return [whole]
    if "model.onnx.data" in exported.files:
        why = "the released graph keeps its weights in a file of their own, which the converters do not read"
        return [whole, *(Made(refused_row(form, why)) for form in forms)]
    _, training, _ = options_of(settings)
    made = make_variants(
        fitted,
        exported.files["model.onnx"].read_bytes(),
        parity=exported.parity,
        forms=forms,
        train=material.train,
        holdout=material.holdout.sample_users(settings.evaluation.max_users, seed=settings.train.seed),
        withdrawn=withdrawn_items(Lake.of(home, settings.lake), version=job.items_version),
        training=training,
        options=variant_options(settings),
        run=job.path(home) / "run" / "variants",
    )
    for each in made:
        if each.graph is not None:
            (folder / each.row.file).write_bytes(each.graph)
    return made


def variant_options(settings: Settings) -> VariantOptions:
    stated = settings.release
    return VariantOptions(
        ndcg_loss=stated.variant_ndcg_loss,
        rows=stated.variant_rows,
        speedup=stated.variant_speedup,
        device=settings.serving.device,
        candidates=settings.policy.candidates,
        exclude_seen=settings.policy.exclude_seen,
        max_abs=stated.parity_max_abs,
        top10=stated.parity_top10,
        student=StudentOptions(
            width=stated.student_width,
            blocks=stated.student_blocks,
            epochs=stated.student_epochs,
            weight=stated.student_weight,
            temperature=stated.student_temperature,
        ),
        prune=PruneOptions(heads=stated.pruned_heads, channels=stated.pruned_channels, epochs=stated.pruned_epochs),
    )


def described(made: list[Made]) -> dict[str, Any]:
    """For the manifest: file, precision and item space of each kept form; nothing where float32 is alone."""
    kept = {str(each.row.name): each.described for each in made if each.graph is not None}
    return {"variants": kept} if kept else {}
