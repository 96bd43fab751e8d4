"""States and ways to the throne as people read them, each with a shape and a tone beside the colour."""

from dataclasses import dataclass

from gate.states import TrialState


@dataclass(frozen=True)
class Word:
    """`sign`: for who does not see the colour. `tone`: a class of the style sheet."""

    said: str
    sign: str
    tone: str


WORDS: dict[str, Word] = {
    TrialState.SHADOW: Word("in the shadow", "…", "plain"),
    TrialState.CANARY: Word("canary", "…", "plain"),
    TrialState.INTERLEAVE: Word("interleaving", "…", "plain"),
    TrialState.COMPARE: Word("comparing", "…", "plain"),
    TrialState.AWAIT_APPROVAL: Word("waits for approval", "!", "wait"),
    TrialState.PROMOTING: Word("promoting", "✓", "good"),
    TrialState.BAKING: Word("promoted, watched", "✓", "good"),
    TrialState.PROMOTED: Word("promoted", "✓", "good"),
    TrialState.ROLLED_BACK: Word("rolled back", "↺", "bad"),
    TrialState.REJECTED: Word("rejected", "✗", "bad"),
    TrialState.INCONCLUSIVE: Word("inconclusive", "?", "wait"),
    TrialState.EXPIRED: Word("expired", "◷", "wait"),
    TrialState.STALE: Word("stale: overtaken", "⊘", "wait"),
    TrialState.ABORTED: Word("stopped", "■", "wait"),
    "bootstrap": Word("made the first", "✓", "plain"),
    "promote": Word("promoted by a trial", "✓", "good"),
    "rollback": Word("rolled back to", "↺", "wait"),
    "break_glass": Word("break-glass: without evidence", "!", "bad"),
    "asked": Word("waits for a second person", "!", "wait"),
    "in_force": Word("in force", "!", "bad"),
    "over": Word("over", "↺", "plain"),
    "unconfirmed": Word("not confirmed", "⊘", "plain"),
    "committed": Word("taken in", "✓", "good"),
    "quarantined_whole": Word("held back whole", "✗", "bad"),
    "unreadable": Word("could not be read", "✗", "bad"),
    "empty": Word("empty", "–", "plain"),
}


STEPS = {
    "open_trial": "opened it",
    "set_stage": "moved it to a stage",
    "kill_trial": "killed it",
    "approve": "approved it, the first of several",
    "promote": "approved it: its challenger became champion",
    "begin_bake": "saw it served; its watch began",
    "end_bake": "believed it",
    "close_trial": "ended it",
}
"""Entries of the audit about a trial."""


def word_of(state: str) -> Word:
    """Of a trial's state, a way to the throne, a break-glass's or a delivery's state; any other is shown as it is."""
    return WORDS.get(state) or Word(state, "·", "plain")
