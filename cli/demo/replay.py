"""The same stations on a real log: test on each week, then train on it, and let the gate judge what people chose."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.demo.account import Account
from cli.demo.log import Slice, cut_log
from cli.demo.narrator import Narrator
from cli.demo.settings import REPLAY
from cli.demo.stage import Stage, fresh_home, raised
from cli.demo.story import APPROVER, SUBMITTER
from model.evaluation import RankerRecommender, Recommender, evaluate
from model.fit import fit_full
from model.fitted import Fitted
from model.popularity import Popularity
from model.sequences import Histories, split_by_time
from relations.sequences import user_histories
from simulation.client import RecommendClient
from simulation.replay import Past, in_groups, remember, replay
from stores.clock import set_clock
from stores.lake import Lake
from stores.ledger import Ledger


def play_log(root: Path, *, file: Path, seed: int, quiet: bool) -> Account:
    """Replay `file` in a fresh simulation home at `root`."""
    narrator = Narrator(quiet=quiet)
    history, weeks = cut_log(file)
    home = fresh_home(root, seed=seed, settings=REPLAY)
    with raised(home, narrator) as stage:
        account = _Replay(stage, narrator, Account(seed), file).run(history, weeks)
    account.seconds = narrator.seconds
    return account


@dataclass
class _Replay:
    stage: Stage
    narrator: Narrator
    account: Account
    file: Path

    def run(self, history: Slice, weeks: list[Slice]) -> Account:
        from flows.full_retrain import full_retrain
        from flows.incremental import incremental
        from tasks.deciding import bootstrap_champion

        self.where: dict[str, Any] = {"home": str(self.stage.home.root)}
        self.ledger = Ledger.of(self.stage.home, self.stage.settings)
        self.client = RecommendClient(self.stage.address)
        self.trial_id: str | None = None
        self.past: Past = {}
        for group in in_groups(history.events):
            remember(self.past, group)
        self._items()
        self._ingest(history)
        first = self._train(full_retrain, history)
        bootstrap_champion(
            self.stage.home,
            self.stage.settings,
            first["version"],
            actor=APPROVER,
            reason="the first model of this home",
            now=history.until,
        )
        self.stage.wait_for_champion(first["digest"])
        stale = newest = self._fitted(first["version"])
        for week in weeks:
            if newest is not stale and self.trial_id is None:
                self._start_trial(week)
            self._traffic(week)
            self._ingest(week)
            self._test(week, stale=stale, newest=newest)
            self._look(week)
            released = self._train(incremental, week)
            if released["version"] is not None:
                newest = self._fitted(released["version"])
        self._end()
        return self.account

    def _items(self) -> None:
        from flows.ingest import ingest

        beside = self.file.with_name("u.item")
        if beside.exists():
            receipts = ingest(**self.where, uris=[str(beside)], kind="items", format="movielens")["receipts"]
            self.narrator.done(f"{receipts[0]['accepted']:,} items from {beside.name}")

    def _ingest(self, part: Slice) -> None:
        """The slice's lines as a file, and what serving logged meanwhile."""
        from flows.ingest import ingest

        set_clock(self.stage.home, part.until)
        folder = self.stage.home.run / "replay"
        folder.mkdir(exist_ok=True)
        file = folder / f"week-{part.number:02}.data"
        file.write_bytes(b"".join(part.lines))
        self.stage.wait_for_handover()
        # The week's clicks first: the week's file would move the watermark past them, and they would count as late.
        ingest(**self.where, now=part.until)
        receipt = ingest(**self.where, uris=[str(file)], format="movielens", now=part.until)["receipts"][0]
        shutil.rmtree(folder)
        self.narrator.done(
            f"week {part.number}: {receipt['delivered']:,} rows delivered → {receipt['accepted']:,} accepted"
        )

    def _train(self, flow: Any, part: Slice) -> dict[str, Any]:
        began = time.monotonic()
        with self.narrator.working(flow.name):
            released: dict[str, Any] = flow(**self.where, submitter=SUBMITTER, now=part.until)
        if released["version"] is None:
            self.narrator.detail(released["reason"])
            return released
        self.account.add_parity(released)
        self.narrator.detail(
            f"v{released['version']} ({released['mode']}) in {time.monotonic() - began:.0f} s · {released['verdict']}"
        )
        return released

    def _test(self, week: Slice, *, stale: Fitted, newest: Fitted) -> None:
        """All four on the same rows of a week that none of them has seen."""
        from tasks.options import options_of

        lake, settings = Lake(self.stage.home.lake), self.stage.settings
        rated = lake.relation("events")
        rated = rated.filter(rated.behaviour == "rating")
        split = split_by_time(
            Histories.from_table(user_histories(rated).to_pyarrow()), cutoff_us=round(week.begin * 1_000_000)
        )
        network, training, _ = options_of(settings)
        with self.narrator.working("full retrain, for comparison"):
            full = fit_full(split.train, network=network, training=training)
        recommenders: dict[str, Recommender] = {
            "stale": RankerRecommender.of(stale),
            "incremental": RankerRecommender.of(newest),
            "full": RankerRecommender.of(full),
            "popularity": Popularity.of(split.train),
        }
        found = {
            name: evaluate(each, split.holdout, exclude_seen=settings.policy.exclude_seen)
            for name, each in recommenders.items()
        }
        row = {"week": week.number, "n": len(found["stale"])}
        self.account.weeks.append({**row, **{name: each.overall["ndcg@10"] for name, each in found.items()}})
        told = " · ".join(f"{name} {each.overall['ndcg@10']:.4f}" for name, each in found.items())
        self.narrator.detail(f"NDCG@10 on {row['n']:,} rows: {told}")

    def _start_trial(self, week: Slice) -> None:
        from datetime import UTC, datetime

        from tasks.trials import start_trial

        candidate = self.ledger.candidate()
        tried = {record.challenger_digest for record in self.ledger.trials()}
        if candidate is None or candidate.digest in tried:
            return
        begin = datetime.fromtimestamp(week.begin, UTC)
        config = start_trial.fn(self.stage.home, self.stage.settings, actor=SUBMITTER, now=begin)
        trial_id: str = config["trial_id"]
        self.stage.wait_for_trial(trial_id)
        self.trial_id = trial_id
        self.narrator.step(f"{trial_id}: v{config['challenger_version']} against v{config['champion_version']}")

    def _traffic(self, week: Slice) -> None:
        with self.narrator.working(f"week {week.number}: traffic", total=len(week.events)) as done:
            played = replay(week.events, self.client, past=self.past, on_request=done)
        self.account.requests += played.requests
        self.account.failed += played.failed
        self.narrator.detail(
            f"traffic: {played.requests:,} requests of {played.users} people in {played.sessions:,} sessions, "
            f"{played.clicks:,} clicks"
        )

    def _look(self, week: Slice) -> None:
        if self.trial_id is None:
            return
        from flows.promote import promote
        from flows.trial import trial as look

        evidence = look(**self.where, trial=self.trial_id, now=week.until)
        verdict = evidence["verdict"]
        self.narrator.detail(f"{self.trial_id}, look {evidence['look']}: {verdict} · {evidence['reasons'][0]}")
        if verdict in ("CONTINUE", "HOLD"):
            return
        self.account.add_trial(evidence, kind="good", true_lift=None)
        if verdict == "PROMOTE":
            decided = promote(
                **self.where, trial=self.trial_id, actor=APPROVER, reason="the gate passed it", now=week.until
            )
            self.stage.wait_for_champion(decided["champion"]["digest"])
        self.narrator.done(f"{self.trial_id}: {verdict}")
        self.trial_id = None

    def _end(self) -> None:
        self.client.close()
        if self.trial_id is not None:  # the log ended before the trial did
            newest = self.ledger.trial(self.trial_id).evidence[-1].evidence
            self.account.add_trial(dict(newest), kind="good", true_lift=None)
            self.narrator.warn(f"{self.trial_id} is still open: the log ends here")
        self.account.close(self.stage.home, self.ledger)

    def _fitted(self, version: int) -> Fitted:
        from tasks.training import load_version

        return load_version(self.stage.home, self.stage.settings, version)
