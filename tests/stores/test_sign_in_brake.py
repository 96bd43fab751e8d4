"""Guessing is slow, and nobody is locked out by a stranger for long."""

from stores.sign_in_brake import ALL, MOST_KEPT, NAME, PAIR, SignInBrake


def test_a_burst_then_one_attempt_each_pace() -> None:
    brake = SignInBrake()
    assert [brake.wait("ann", address="a", at=0.0) for _ in range(PAIR.burst)] == [0.0] * PAIR.burst
    assert brake.wait("ANN ", address="a", at=0.0) == PAIR.seconds
    assert brake.wait("ann", address="a", at=PAIR.seconds - 1) == 1.0  # asking did not prolong it
    assert brake.wait("ann", address="a", at=PAIR.seconds) == 0.0
    assert brake.wait("ann", address="a", at=PAIR.seconds) > 0
    assert brake.wait("bob", address="a", at=0.0) == 0.0


def test_guesses_at_one_name_from_everywhere_are_few() -> None:
    brake, hours = SignInBrake(), 10_800
    let_in = sum(brake.wait("ann", address=f"a{second}", at=float(second)) == 0.0 for second in range(hours))
    assert let_in <= NAME.burst + hours / NAME.seconds


def test_all_names_together_are_limited_too() -> None:
    brake = SignInBrake()
    let_in = sum(brake.wait(f"n{number}", address=f"a{number}", at=0.0) == 0.0 for number in range(1_000))
    assert let_in == ALL.burst


def test_a_person_known_at_an_address_is_not_kept_out_by_strangers() -> None:
    brake = SignInBrake()
    assert brake.wait("ann", address="home", at=0.0) == 0.0
    brake.succeeded("ann", address="home")
    for number in range(200):
        brake.wait("ann", address=f"a{number}", at=1.0)
        brake.wait(f"n{number}", address=f"b{number}", at=1.0)
    assert brake.wait("ann", address="elsewhere", at=1.0) > 0
    assert brake.wait("ann", address="home", at=1.0) == 0.0
    # And the attack's end is the end of it: at a new address, after the time of one attempt.
    assert brake.wait("ann", address="elsewhere", at=1.0 + NAME.seconds) == 0.0


def test_what_is_remembered_is_bounded() -> None:
    brake = SignInBrake()
    for number in range(MOST_KEPT + 10):
        brake.wait(f"n{number}", address="a", at=number * ALL.seconds)
        brake.succeeded(f"n{number}", address="a")
    assert max(len(brake._full_at), len(brake._trusted)) <= MOST_KEPT
