"""What would change a verdict: sentences for the person who reads the evidence. They decide nothing."""

import math

from gate.boundaries import boundaries
from gate.verdict import Look, Numbers, Verdict

POWER_Z = 0.8416
"""Of 80 % power, Φ⁻¹(.8)."""


def outlook(look: Look, verdict: Verdict) -> tuple[str, ...]:
    numbers = look.numbers
    if look.sums.problems:
        return ("The data must be whole first; then look again.", *look.sums.problems)
    if verdict is Verdict.HOLD and look.vetoes:
        return ("The arms are not comparable. Find out why before anything else: assignment, logs, or the bot rules.",)
    if numbers is None or sum(look.matured) < look.config.min_users:
        missing = max(0, look.config.min_users - sum(look.matured))
        return (f"{missing:,} more matured users for a first look.",)
    if look.config.is_aa:
        return ("Nothing is decided by an A/A trial; a difference found would be a fault to look for.",)
    if verdict is Verdict.PROMOTE:
        return (
            "A person approves or rejects. Until then a later look can withdraw it: a mismatch of users, a guardrail "
            "that does not hold any more, or data that are late.",
        )
    if verdict is Verdict.CONTINUE:
        return _going_on(look, numbers)
    if verdict is Verdict.REJECT:
        return ("Nothing in this trial. A challenger that was trained on newer data may be tried in a new one.",)
    if verdict is Verdict.INCONCLUSIVE:
        return _undecided(look, numbers)
    return ("New users must mature; then look again.",)


def _going_on(look: Look, numbers: Numbers) -> tuple[str, ...]:
    config, found = look.config, []
    if look.early:
        found.append(f"Time: nothing is promoted before {config.minimum_days:g} days of comparison.")
    elif not numbers.crosses and numbers.boundary is not None:
        needed = numbers.boundary.z * float(numbers.found.standard_error) / float(numbers.found.champion_rate)
        found.append(f"With today's users a lift of {needed:+.2%} would have been enough.")
    last = _last_boundary(look, numbers)
    if numbers.z <= 0:
        found.append("The challenger must come out ahead; so far it does not.")
    elif not numbers.crosses:
        users = math.ceil(numbers.users * (last / numbers.z) ** 2)
        if users <= config.n_max:
            found.append(f"If the effect stays as it is, the boundary is met by about {users:,} matured users.")
        else:
            found.append(
                f"If the effect stays as it is, about {users:,} matured users would be needed; this trial ends at "
                f"{config.n_max:,}."
            )
    found += [f"Proof that {each.rpartition(':')[0]} is within its margin." for each in look.unproven]
    return tuple(found) or ("The next look.",)


def _undecided(look: Look, numbers: Numbers) -> tuple[str, ...]:
    last = numbers.boundary.z if numbers.boundary else _last_boundary(look, numbers)
    rate, error = float(numbers.found.champion_rate), float(numbers.found.standard_error)
    if rate <= 0 or error <= 0:
        return ("Nothing in this trial: too little of the metric was seen.",)
    found = [f"This trial could find a lift of {(last + POWER_Z) * error / rate:+.2%} four times in five."]
    if numbers.z > 0 and not look.vetoes:
        users = math.ceil(numbers.users * ((last + POWER_Z) / numbers.z) ** 2)
        found.append(f"A lift like the one seen needs about {users:,} matured users: a new trial, planned for it.")
    return tuple(found)


def _last_boundary(look: Look, numbers: Numbers) -> float:
    """z that the last look would ask for if it followed directly on this one."""
    config = look.config
    now = min(numbers.users / config.n_max, 1 - 1e-6)
    times = (now, 1.0)
    return boundaries(times, spending=config.spending, alpha=config.alpha_each, final=True)[-1].z
