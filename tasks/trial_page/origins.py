"""Where the figures come from: data, digests, the promise, and how to make the decision again."""

import json
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from tasks.trial_page.markup import folded, node, soft, table
from tasks.trial_page.reading import Told, mapping
from tasks.trial_page.wording import UNKNOWN


def origins_part(told: Told) -> list[Element]:
    newest, record, config = told.newest, told.record, told.config
    versions = [
        (f"table {name}", f"version {value}") for name, value in sorted(mapping(newest, "data_versions").items())
    ]
    digests = [(f"{each.name} v{each.version}", each.digest) for each in config.challengers]
    rows = [
        *versions,
        (f"champion v{config.champion_version}, epoch {config.champion_epoch}", config.champion_digest),
        *digests,
        ("configuration", record.config_hash),
        ("evidence of this look", told.sha256_N[-1] if told.sha256_N else UNKNOWN),
        ("submitted by", record.submitter or UNKNOWN),
    ]
    return [
        table("Data and digests", ("what", "which"), [(name, node("code", value)) for name, value in rows], texts=(1,)),
        node(
            "p", "An approval names the evidence's digest. The ledger keeps the sums behind it, and from these alone:"
        ),
        node(
            "pre",
            "\n".join(
                (
                    "ratchet ledger verify    # makes every decision again from its sums, and checks every hash",
                    f"ratchet trial status {record.id}",
                )
            ),
            tabindex=0,
        ),
    ]


def promise_part(told: Told) -> list[Element]:
    return [
        soft("Frozen before the first user was exposed; its hash is in every look, and an edit voids the trial."),
        folded("The whole configuration", _promise(told.record.config)),
    ]


def _promise(config: Mapping[str, Any]) -> Element:
    body = [(name, node("code", _said(value))) for name, value in config.items()]
    return table("What was promised", ("setting", "value"), body, texts=(1,))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
