"""The home: the one folder that holds all state of an embedded Ratchet."""

import json
from dataclasses import dataclass
from pathlib import Path

from relations.errors import DependencyFailed, UsageError

FORMAT = 2
"""1 had narrower tables: no searches, contexts, warnings."""


@dataclass(frozen=True)
class Home:
    """Where everything lies. A home is made by `create` and opened by `open`; nothing is made on look-up."""

    root: Path
    simulation: bool = False

    @staticmethod
    def create(root: Path, *, simulation: bool = False) -> "Home":
        """Make the folders; an existing home of the same kind is kept as it is."""
        home = Home(root.resolve(), simulation)
        marker = home.root / "home.json"
        if odd := sorted(set("[]%") & set(str(home.root))):
            raise UsageError(f"{root}: Delta tables cannot lie below a path with {odd[0]} in it; take another --home")
        if marker.exists():
            existing = Home.open(root)
            if existing.simulation != simulation:
                raise UsageError(
                    f"{root}: is already a home with simulation = {existing.simulation}; take another --home"
                )
            return existing
        try:
            for folder in home.folders():
                folder.mkdir(parents=True, exist_ok=True)
            home.keys.chmod(0o700)
            temporary = marker.with_suffix(".part")
            temporary.write_text(json.dumps({"format": FORMAT, "simulation": simulation}) + "\n")
            temporary.replace(marker)
        except OSError as error:
            raise DependencyFailed(
                f"{root}: cannot make a home here: {error.strerror}; choose a writable --home"
            ) from error
        return home

    @staticmethod
    def open(root: Path) -> "Home":
        marker = root / "home.json"
        if not marker.exists():
            raise UsageError(f"{root}: no Ratchet home here; make one with `ratchet init --home {root}`")
        try:
            stated = json.loads(marker.read_text())
            version, simulation = int(stated["format"]), bool(stated["simulation"])
        except (ValueError, KeyError, TypeError) as error:
            raise DependencyFailed(
                f"{marker}: not readable as a home's marker ({error}); restore it from a backup"
            ) from error
        if version != FORMAT:
            raise UsageError(
                f"{marker}: format {version}, this version of Ratchet reads {FORMAT}; "
                "make a new home and ingest the logs again"
            )
        return Home(root.resolve(), simulation)

    def folders(self) -> tuple[Path, ...]:
        return (
            self.lake,
            self.sequences,
            self.staging,
            *(self.landing / kind for kind in ("events", "items", "users", "exposures", "feedback")),
            self.rejected,
            self.releases,
            self.checkpoints,
            self.tuning,
            self.reports,
            self.trials,
            self.keys,
            self.serving,
            self.prefect,
            self.tracking_artifacts,
            self.run,
        )

    @property
    def lake(self) -> Path:
        """Delta tables, one folder each."""
        return self.root / "lake"

    @property
    def sequences(self) -> Path:
        """Users' sequences as flat arrays for training, derived from the lake."""
        return self.root / "sequences"

    @property
    def staging(self) -> Path:
        """Open intents of the delivery protocol, each with its copy of the input."""
        return self.root / "staging"

    @property
    def landing(self) -> Path:
        """Files that wait for ingest: `events/ items/ users/` from outside, `exposures/ feedback/` from serving."""
        return self.root / "landing"

    @property
    def rejected(self) -> Path:
        """Landing files that no reader could read."""
        return self.root / "rejected"

    @property
    def releases(self) -> Path:
        """Release bundles, one folder a digest."""
        return self.root / "releases"

    @property
    def checkpoints(self) -> Path:
        """Training state: `runs/<run key>` while a training runs, `models/<digest>` to warm-start from."""
        return self.root / "checkpoints"

    @property
    def tuning(self) -> Path:
        """Searches for better settings, one folder each."""
        return self.root / "tuning"

    @property
    def reports(self) -> Path:
        """Pages for people: Data Docs and trial evidence."""
        return self.root / "reports"

    @property
    def trials(self) -> Path:
        """`<trial id>/trial.json` and `<trial id>/look-<n>.json`, as hashed into the ledger."""
        return self.root / "trials"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def api_keys(self) -> Path:
        """Hashes of the recommend API's keys; absent while the API is open."""
        return self.keys / "api_keys.json"

    @property
    def serving(self) -> Path:
        """User state (SQLite) and the popularity list that answers while there is no champion."""
        return self.root / "serving"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def tracking_artifacts(self) -> Path:
        return self.root / "mlflow"

    @property
    def run(self) -> Path:
        """Process ids, ports and locks of what is running."""
        return self.root / "run"

    @property
    def decisions(self) -> Path:
        """What was decided about training, skipped ones too, and why: a JSON object a line, oldest first."""
        return self.root / "decisions.jsonl"

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def user_state(self) -> Path:
        return self.serving / "user_state.db"

    @property
    def preferences(self) -> Path:
        """What users control, a file each. Not to be deleted: nothing rebuilds it."""
        return self.serving / "preferences"

    @property
    def popularity(self) -> Path:
        return self.serving / "popularity.json"

    @property
    def kill_switch(self) -> Path:
        """Trials that were killed, for serving to see without the ledger."""
        return self.serving / "kill-switch.json"

    @property
    def facts(self) -> Path:
        """What the flows tell serving of the data, for those who watch it."""
        return self.serving / "facts.json"

    @property
    def side_indexes(self) -> Path:
        """Rows of items that came after a release, one folder a digest."""
        return self.serving / "side"

    @property
    def side_in_force(self) -> Path:
        """Which side indexes are in force, by the release that they belong to."""
        return self.serving / "side.json"

    @property
    def catalogue(self) -> Path:
        """What serving knows of items: categories, prices, what is offered."""
        return self.serving / "catalogue.npz"

    @property
    def blocklist(self) -> Path:
        """Items that nobody may be shown."""
        return self.serving / "blocklist.json"
