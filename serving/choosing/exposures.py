"""What was shown, one JSON line a slot, as the exposures table has it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted

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
        shown, explored = shown_json(slot, position=position), "true" if slot.explored else "false"
        own = f'"exposure_id":"{exposure_id(str(common["request_id"]), position)}",{shown},"explored":{explored}'
        yield f"{shared},{own}}}\n".encode()


def shown_json(slot: Shown, *, position: int) -> str:
    """What answer and exposure both say of a slot, as members of a JSON object. An encoder would take four times as
    long."""
    return (
        f'"item_id":{quoted(slot.item)},"score":{slot.score!r},"position":{position},"propensity":{slot.propensity!r}'
    )


def _source(slot: Shown) -> dict[str, object]:
    return {
        "policy": slot.policy,
        "model_version": slot.source.version,
        "digest": slot.source.digest,
        "served_by": slot.source.served_by,
        "candidate_set_hash": slot.source.set_hash,
    }
