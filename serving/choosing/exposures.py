"""What was shown, one JSON line a slot, as the exposures table has it."""

import json
from collections.abc import Iterator, Mapping, Sequence

from serving.choosing.slots import Shown

# json.dumps with options makes an encoder a call.
encode = json.JSONEncoder(separators=(",", ":")).encode


def exposure_id(request_id: str, position: int) -> str:
    return f"{request_id}:{position}"


def exposure_lines(common: Mapping[str, object], slots: Sequence[Shown]) -> Iterator[bytes]:
    """`common`: what holds of the whole answer. What slots share is rendered once; it is nine tenths of the work."""
    rendered: dict[tuple[int, str], str] = {}
    for position, slot in enumerate(slots, start=1):
        key = id(slot.source), slot.policy
        shared = rendered.get(key)
        if shared is None:
            shared = rendered[key] = encode({**common, **_source(slot)})[:-1]
        own = {
            "exposure_id": exposure_id(str(common["request_id"]), position),
            "item_id": slot.item,
            "position": position,
            "propensity": slot.propensity,
            "score": slot.score,
            "explored": slot.explored,
        }
        yield f"{shared},{encode(own)[1:]}\n".encode()


def _source(slot: Shown) -> dict[str, object]:
    return {
        "policy": slot.policy,
        "model_version": slot.source.version,
        "digest": slot.source.digest,
        "served_by": slot.source.served_by,
        "candidate_set_hash": slot.source.set_hash,
    }
