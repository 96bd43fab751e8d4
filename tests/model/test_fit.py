import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import FILE
from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions
from model.evaluation import RankerRecommender, evaluate
from model.fit import fit_full
from model.fitted import Fitted, load_fitted, save_fitted
from model.options import Device, Loss, NetworkOptions, TrainOptions
from model.popularity import Popularity
from model.sequences import Histories, split_by_time
from model.trainer import Step
from model.windows import Epoch
from relations.errors import DataRejected, DependencyFailed, UsageError

Make = Callable[..., Histories]
ONE = IncrementOptions(epochs=1, learning_rate=1e-2)


def best(fitted: Fitted, *items: str, among: int = 1) -> list[str]:
    """The items that a user who viewed `items` gets first."""
    row = torch.from_numpy(fitted.vocabulary.rows(items))[None]
    with torch.inference_mode():
        top = (
            fitted.ranker(row, torch.ones_like(row), 100 * torch.arange(len(items), 0, -1)[None])[0].topk(among).indices
        )
    return [fitted.vocabulary.items[int(column)] for column in top]


def followed(fitted: Fitted) -> int:
    """Of ten stretches of the walk i00 … i11, how many are continued as it goes."""
    return sum(best(fitted, f"i{n:02d}", f"i{n + 1:02d}") == [f"i{n + 2:02d}"] for n in range(10))


def test_it_learns_what_follows(fitted: Fitted) -> None:
    assert followed(fitted) == 10
    assert fitted.losses[0][1] == pytest.approx(np.log(12), rel=0.1)  # twelve items, nothing known yet
    assert fitted.losses[-1][1] < 0.5 * fitted.losses[0][1]
    assert [step for step, _ in fitted.losses] == list(range(1, fitted.steps + 1))


def test_the_sampled_loss_learns_it_too(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    found = fit_full(cycle, network=tiny, training=replace(brief, loss=Loss.SAMPLED, negatives=6, epochs=20))
    assert followed(found) >= 8


def test_users_without_history_get_the_first_items_of_others(histories_of: Make) -> None:
    h = histories_of([(f"u{u}", item, "view", t) for u in range(30) for t, item in enumerate(["start", "b", "c", "b"])])
    options = TrainOptions(epochs=15, batch_tokens=64, learning_rate=2e-2, threads=1, device=Device.CPU)
    found = fit_full(h, network=NetworkOptions(width=8, blocks=1, max_history=4, dropout=0.0), training=options)
    nothing = torch.zeros((1, 1), dtype=torch.int64)
    with torch.inference_mode():
        assert found.vocabulary.items[int(found.ranker(nothing, nothing, nothing).argmax())] == "start"


def test_the_same_inputs_give_the_same_bits_and_leave_no_trace(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    once = replace(brief, epochs=1)
    first, second = (fit_full(cycle, network=tiny, training=once) for _ in range(2))
    assert first.digest == second.digest
    assert first.digest != fit_full(cycle, network=tiny, training=replace(once, seed=1)).digest
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_saved_and_loaded_scores_identically(fitted: Fitted, tmp_path: Path) -> None:
    save_fitted(fitted, tmp_path / "model")
    save_fitted(fitted, tmp_path / "model")  # replaces it
    again = load_fitted(tmp_path / "model")
    items = torch.randint(1, 13, (5, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        asked = items, items.clamp(max=3), torch.arange(8, 0, -1).expand(5, 8)
        assert torch.equal(fitted.ranker(*asked), again.ranker(*asked))
    assert again.digest == fitted.digest
    assert (again.vocabulary, again.losses, again.steps) == (fitted.vocabulary, fitted.losses, fitted.steps)
    assert again.optimizer_state.keys() == fitted.optimizer_state.keys()
    assert all(torch.equal(again.optimizer_state[name], value) for name, value in fitted.optimizer_state.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_broken_checkpoint_folder_is_named(fitted: Fitted, tmp_path: Path) -> None:
    save_fitted(fitted, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataRejected, match="not a model checkpoint"):
        load_fitted(tmp_path / "m")


def test_increments_learn_what_is_new_and_keep_the_parent(
    cycle: Histories, fitted: Fitted, histories_of: Make, brief: TrainOptions
) -> None:
    """From now on the walk goes i03 → new → i04; the users are known ones, and one is new."""
    later = int(cycle.time_N.max() // 1_000_000)
    walk = ["i02", "i03", "new", "i04", "i05", "i03", "new", "i04"]
    new = histories_of([(f"u{u:02d}", i, "view", later + 9 * t) for u in range(30, 41) for t, i in enumerate(walk)])
    digest = fitted.digest
    told: list[Step] = []
    options = IncrementOptions(epochs=20, learning_rate=1e-2, replay_share=0.5)
    grown = fit_increment(fitted, new=new, past=cycle, training=brief, increment=options, on_step=told.append)
    assert fitted.digest == digest
    assert grown.vocabulary.items == (*fitted.vocabulary.items, "new")
    assert grown.vocabulary.version == 2
    assert set(best(grown, "i02", "i03", among=2)) == {"new", "i04"}  # now, and as replayed
    assert best(grown, "i03", "new") == ["i04"]
    assert best(grown, "i08", "i09") == ["i10"]  # replay keeps what did not change
    assert [step.step for step in told] == list(range(1, grown.steps + 1))
    assert (told[-1].total, told[-1].targets) == (grown.steps, grown.targets)
    step = grown.optimizer_state["ranker.item_bias/step"]
    assert step == fitted.optimizer_state["ranker.item_bias/step"] + grown.steps  # the optimiser went on


def test_replay_share_sets_the_amount_of_past(
    cycle: Histories, fitted: Fitted, histories_of: Make, brief: TrainOptions
) -> None:
    later = int(cycle.time_N.max() // 1_000_000)
    new = histories_of([("u00", f"i{n % 12:02d}", "view", later + n) for n in range(1, 31)])

    def targets(share: float) -> int:
        options = replace(ONE, replay_share=share)
        return fit_increment(fitted, new=new, past=cycle, training=brief, increment=options).targets

    alone, half, more = targets(0.0), targets(0.5), targets(0.75)
    assert alone == 30
    # then 30 and 90 past targets, rounded up to whole windows of at most 8
    assert 30 <= half - alone < 38
    assert 90 <= more - alone < 98


def test_first_events_of_the_past_are_not_trained_again(
    cycle: Histories, fitted: Fitted, histories_of: Make, brief: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, seen, build = int(cycle.time_N.max() // 1_000_000), [], Epoch.of

    def spy(*corpus: Any, **rest: Any) -> Epoch:
        seen.append(build(*corpus, **rest))
        return seen[-1]

    monkeypatch.setattr(Epoch, "of", spy)
    new = histories_of([("u00", "i05", "view", later + 1), ("somebody", "i07", "view", later + 1)])
    fit_increment(fitted, new=new, past=cycle, training=brief, increment=ONE)
    first = [users.tolist() for epoch in seen for users in epoch.firsts if len(users)]
    assert first == [[0]]  # "somebody" comes first of all users; u00 and 39 others began in the past


def test_increments_refuse_nothing_to_learn(
    cycle: Histories, fitted: Fitted, histories_of: Make, brief: TrainOptions
) -> None:
    disliked = histories_of([("u00", "i01", "dislike", 10**6)])
    with pytest.raises(DataRejected, match="hold no target"):
        fit_increment(fitted, new=disliked, past=cycle, training=brief, increment=ONE)
    with pytest.raises(DataRejected, match="1 new events, fewer than min_new_events = 2"):
        fit_increment(fitted, new=disliked, past=cycle, training=brief, increment=replace(ONE, min_new_events=2))
    with pytest.raises(DataRejected, match="nothing to learn from"):
        fit_full(disliked, network=NetworkOptions(), training=brief)


def test_a_diverging_training_stops(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    with pytest.raises(UsageError, match="lower learning_rate"):
        fit_full(cycle, network=tiny, training=replace(brief, learning_rate=1e38))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_without_cuda_is_refused(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    with pytest.raises(DependencyFailed, match='device = "cuda"'):
        fit_full(cycle, network=tiny, training=replace(brief, device=Device.CUDA))


def test_the_width_must_divide_by_the_heads() -> None:
    with pytest.raises(UsageError, match="width = 10 is not a multiple of heads = 4"):
        NetworkOptions(width=10, heads=4)


def test_a_finished_run_is_not_trained_again(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, tmp_path: Path
) -> None:
    once = replace(brief, epochs=1)
    first = fit_full(cycle, network=tiny, training=once, run=tmp_path)
    told: list[Step] = []
    again = fit_full(cycle, network=tiny, training=once, run=tmp_path, on_step=told.append)
    assert told == []
    assert (again.digest, again.losses, again.tokens) == (first.digest, first.losses, first.tokens)


def test_checkpoints_of_others_and_broken_ones_are_ignored(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, tmp_path: Path
) -> None:
    once = replace(brief, epochs=1)
    clean = fit_full(cycle, network=tiny, training=once)
    fit_full(cycle, network=tiny, training=replace(once, seed=5), run=tmp_path)
    assert fit_full(cycle, network=tiny, training=once, run=tmp_path).digest == clean.digest
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    assert fit_full(cycle, network=tiny, training=once, run=tmp_path).digest == clean.digest
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# A process imports everything once, and forks a child for each attempt; it starts no thread before it forks.
KILLS = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from model.continual.increment import fit_increment
from model.fit import fit_full
from model.continual.options import IncrementOptions
from model.options import Device, NetworkOptions, TrainOptions
from model.sequences import Histories

folder = Path(sys.argv[1])
rng = np.random.default_rng(1)
item_N = rng.integers(0, 30, size=600)
h = Histories(np.array([f"u{n:02d}" for n in range(30)], dtype=object), np.array([f"i{n:02d}" for n in range(30)],
              dtype=object), item_N, np.ones(600, dtype=np.int64), np.tile(np.arange(20), 30), np.arange(0, 601, 20))
training = TrainOptions(epochs=3, batch_tokens=50, threads=1, device=Device.CPU, checkpoint_every_steps=4, ema=0.9,
                        accumulate=2, patience=2, clip_norm=1.0)
increment = IncrementOptions(epochs=3, replay_share=0.5)

def attempt(name, kill_at, increments, block):
    child = os.fork()
    if child == 0:
        total = 0
        def on_step(step):
            nonlocal total
            total += 1
            if step.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        run = folder / name if name else None
        network = NetworkOptions(width=16, max_history=8, dropout=0.3, block=block)
        if increments:
            parent = fit_full(h.before(15), network=network, training=replace(training, epochs=1))
            found = fit_increment(parent, new=h.since(15), past=h.before(15), training=training, increment=increment,
                                  run=run, on_step=on_step)
        else:
            found = fit_full(h, network=network, training=training, run=run, on_step=on_step)
        state = {key: value.double().sum().item() for key, value in found.optimizer_state.items()}
        (folder / "answer.json").write_text(json.dumps([found.digest, found.losses, state, found.targets, total]))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return ["killed", os.WTERMSIG(status)]
    return json.loads((folder / "answer.json").read_text())

answers = {}
for increments in (False, True):
    for name, kill_at in [("", 0), ("run", 6), ("run", 11), ("run", 0)]:
        block = "softmax" if increments else "hstu"
        answers[f"{increments} {name} {kill_at}"] = attempt(name and f"{name}{increments}", kill_at, increments, block)
print(json.dumps(answers))
"""


def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    answers = json.loads(found.stdout)
    for increments in (False, True):
        clean, resumed = answers[f"{increments}  0"], answers[f"{increments} run 0"]
        assert answers[f"{increments} run 6"] == answers[f"{increments} run 11"] == ["killed", 9]
        assert resumed[:4] == clean[:4]  # digest, loss trace, optimiser, targets
        # the second kill, in step 11, left the checkpoint of the epoch's end at step 10, or that of step 8
        assert resumed[4] == clean[4] - (10 if increments else 8)


@pytest.mark.realdata
def test_movielens_beats_popularity_clearly(realdata: Path) -> None:
    raw = np.loadtxt(realdata / "ml-100k" / "u.data", dtype=np.int64)
    raw = raw[np.argsort(raw[:, 3], kind="stable")][:40_000]
    users, user_N = np.unique(raw[:, 0], return_inverse=True)
    items, item_N = np.unique(raw[:, 1], return_inverse=True)
    order = np.lexsort([raw[:, 3], user_N])
    h = Histories(
        np.array([str(u) for u in users], dtype=object),
        np.array([str(i) for i in items], dtype=object),
        item_N[order],
        np.full(len(raw), 6),
        raw[order, 3] * 1_000_000,
        np.concatenate([[0], np.cumsum(np.bincount(user_N))]),
    )
    split = split_by_time(h, holdout_share=0.1)
    network = NetworkOptions(width=32)
    found = fit_full(split.train, network=network, training=TrainOptions(epochs=8, batch_tokens=1000, threads=1))
    ours = evaluate(RankerRecommender.of(found), split.holdout).overall["ndcg@10"]
    theirs = evaluate(Popularity.of(split.train), split.holdout).overall["ndcg@10"]
    assert ours > 1.5 * theirs
