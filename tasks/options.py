"""What the settings say, as the options of `model/`."""

from dataclasses import fields

from model.continual.choosing import RetrainOptions
from model.continual.online import OnlineOptions
from model.continual.options import IncrementOptions
from model.features import FeatureOptions, Kind
from model.nearest import BEST, NearestOptions
from model.objectives.options import ObjectiveOptions
from model.options import NetworkOptions, TrainOptions
from stores.settings import Settings


def objective_of(settings: Settings) -> ObjectiveOptions:
    return ObjectiveOptions(**settings.objective.model_dump())


def features_of(settings: Settings) -> FeatureOptions:
    said = settings.features
    return FeatureOptions(
        user={name: Kind(kind) for name, kind in said.user.items()}, buckets=said.buckets, k=settings.privacy.k
    )


def retrain_of(settings: Settings) -> RetrainOptions:
    return RetrainOptions(**settings.retrain.model_dump())


def nearest_of(settings: Settings) -> NearestOptions:
    """Recall is judged at the depth at which serving asks, where that is deeper than usual."""
    said = settings.release
    return NearestOptions(
        above=said.ann_above,
        recall=said.ann_recall,
        best=max(BEST, settings.policy.candidates),
        seed=settings.train.seed,
    )


def options_of(settings: Settings) -> tuple[NetworkOptions, TrainOptions, IncrementOptions]:
    return (
        NetworkOptions(**settings.model.model_dump(exclude={"preset"})),
        TrainOptions(**settings.train.model_dump()),
        IncrementOptions(**settings.increment.model_dump()),
    )


def online_of(settings: Settings) -> OnlineOptions:
    return OnlineOptions(**{each.name: getattr(settings.online, each.name) for each in fields(OnlineOptions)})
