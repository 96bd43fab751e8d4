"""What came before: the earlier stages with what they saw, the rehearsal of the metric, and the ledger of errors."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from tasks.trial_page.checks import served_table
from tasks.trial_page.markup import folded, node, soft, table
from tasks.trial_page.reading import COMPARE, Evidence, Told, figure, mapping, stage_of, text, texts
from tasks.trial_page.wording import UNKNOWN, count, moment, number, share

MEANING = {
    "shadow": "asked beside the champion; nobody sees what it says",
    "canary": "seen by few, who stay out of the comparison",
    "interleave": "its list and the champion's drafted into one; it can prune, never promote",
    "compare": "seen by its share of users; the only stage that can promote",
    "killed": "taken off all users for good",
}
PREFERENCES = {"PREFERRED": "✓ proven to win", "PRUNE": "✗ proven to lose", "OPEN": "… no winner yet"}


def stages_part(told: Told) -> list[Element] | None:
    """None for a trial that compared from the start."""
    record = told.record
    if not record.stages and all(stage_of(look) == COMPARE for look in told.looks):
        return None
    parts: list[Element] = []
    if record.stages:
        body = [
            (
                str(stage.number), str(stage.mode), MEANING.get(str(stage.mode), UNKNOWN), share(stage.allocation),
                moment(stage.since.isoformat()), stage.actor, stage.reason or UNKNOWN,
            )
            for stage in record.stages
        ]  # fmt: skip
        head = ("step", "stage", "who sees the challenger", "share of users", "since", "by", "because")
        parts.append(table("Stages, in order", head, body, texts=(1, 2, 4, 5, 6)))
    for name, looks in groupby(told.looks, key=stage_of):
        if name != COMPARE:
            parts += _stage(told, name, list(looks))
    return parts


def credit_part(told: Told, look: Evidence) -> list[Element]:
    """Interleaving's signs of users with their e-values, by challenger; nothing where the look has none."""
    credit = mapping(look, "credit")
    body = []
    for arm in credit:
        own = mapping(credit, arm)
        low, high = figure(own, "lower"), figure(own, "upper")
        body.append(
            (
                told.named(arm), PREFERENCES.get(text(own, "preference"), UNKNOWN), told.users(figure(own, "wins")),
                told.users(figure(own, "losses")), share(figure(own, "win_rate")),
                UNKNOWN if low is None or high is None else f"{share(low)} to {share(high)}",
                number(figure(own, "e_win"), digits=3), number(figure(own, "e_loss"), digits=3),
            )
        )  # fmt: skip
    if not body:
        return []
    head = ("challenger", "so far", "users won", "users lost", "share won", "always-valid interval", "e of winning",
            "e of losing")  # fmt: skip
    return [
        table("Interleaving: whose picks a user preferred, by neutral credit", head, body, texts=(1,)),
        soft(
            "An e-value is the gain of a bet against both being liked equally, which gains nothing on average where "
            f"that is so. It decides at {_needed_e(credit)}, at whatever moment one stops; nothing here promotes."
        ),
    ]


def rehearsal_part(told: Told) -> list[Element] | None:
    """What an A/A trial means where this is one; else whether the metric had one."""
    if told.config.is_aa:
        return [
            node(
                "p",
                "This is an A/A trial: the champion is its own challenger, so there is no difference to be found. It "
                "rehearses the whole way, from assignment over the logs to this page, before the metric is trusted.",
            ),
            node(
                "ul",
                node("li", "Good: the split is as declared, the intervals cover 0, and it ends without a decision."),
                node(
                    "li",
                    f"Bad: a broken split, or z beyond its boundary. By chance alone that happens to at most "
                    f"{share(told.config.alpha)} of such trials; look for a fault first.",
                ),
                node("li", "It never promotes, whatever it finds."),
            ),
        ]
    before = told.newest.get("aa")
    name = told.config.primary.name
    if not isinstance(before, Mapping):
        return [soft(f"No A/A trial of {name} is in the ledger. Run one before a new metric or pipeline is trusted.")]
    said = ", ".join(filter(None, (text(before, "state"), text(before, "verdict"))))
    return [soft(f"The newest A/A trial with {name}: {text(before, 'trial')} ({said}).")]


def errors_part(told: Told) -> list[Element] | None:
    """The α-ledger: what this gate's promotions are expected to hold of errors."""
    ledger = mapping(told.newest, "alpha_ledger")
    if not ledger:
        return None
    trials, false, year = (figure(ledger, name) for name in ("trials", "expected_false", "a_year"))
    made = figure(ledger, "promotions")
    return [
        node(
            "p",
            f"{count(trials)} trials so far, {count(made)} promotions. If every challenger had been no better, "
            f"{number(false, digits=3)} of them would have been promoted by chance; at this pace "
            f"{number(year, digits=2)} a year.",
        )
    ]


def _stage(told: Told, name: str, looks: Sequence[Evidence]) -> list[Element]:
    newest = looks[-1]
    reasons = texts(newest, "reasons")
    served = mapping(newest, "served")
    parts: list[Element | None] = [
        node("h3", f"{name.capitalize()}: {len(looks)} {'look' if len(looks) == 1 else 'looks'}"),
        node(
            "p",
            node("strong", text(newest, "decision") or text(newest, "verdict") or UNKNOWN),
            ": ",
            "; ".join(reasons),
        ),
    ]
    if served:
        parts.append(served_table(told, served, list(served), caption=f"Answers during {name}, newest look"))
    parts += credit_part(told, newest)
    if len(looks) > 1:
        body = [
            (str(look.get("look", UNKNOWN)), text(look, "decision") or text(look, "verdict") or UNKNOWN,
             "; ".join(texts(look, "reasons")))
            for look in looks[-100:]
        ]  # fmt: skip
        parts.append(
            folded(f"Looks at {name}", table(f"Looks at {name}", ("look", "said", "because"), body, texts=(1, 2)))
        )
    return [part for part in parts if part is not None]


def _needed_e(credit: Evidence) -> str:
    """An e-value of 1/α decides."""
    alphas = [alpha for arm in credit if (alpha := figure(mapping(credit, arm), "alpha"))]
    return number(1 / min(alphas)) if alphas else "1/α"
