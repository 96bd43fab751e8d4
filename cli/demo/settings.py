"""The settings of the demo's homes. What they shorten is said; production keeps the defaults."""

MARKETPLACE = """\
# The settings of the simulated marketplace's home.

[home]
clock = "request"            # time comes with the requests, so that three weeks pass in minutes

[train]
epochs = 20
threads = 2
checkpoint_every_steps = 200

[increment]
epochs = 4

[trial]
window_hours = 24            # a click comes within minutes; purchases may take two days and are no metric here
n_max = 4000                 # matured users in both arms
min_users = 600
looks = 5
deadline_days = 7            # production: two weekly cycles at least
minimum_effect = 0.02

[serving]
flush_seconds = 0.3
poll_seconds = 0.2
"""

REPLAY = """\
# The settings of a home that replays a real log.

[home]
clock = "request"

[train]
epochs = 12
checkpoint_every_steps = 200

[evaluation]
holdout_share = 0.05

[trial]
window_hours = 24
n_max = 600
min_users = 60
looks = 6
deadline_days = 42

[serving]
flush_seconds = 0.3
poll_seconds = 0.2
"""
