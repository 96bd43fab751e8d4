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

[forgetting]
overlap = 0.6                # production: 0.7; here an increment is as large as all before it

[trial]
stages = ["compare"]         # production: a shadow and a canary first; here three weeks must pass in minutes
minimum_days = 0             # production: two weekly cycles; this market has no weekends and no novelty
bake_hours = 12              # production: a day; one day of the market is played after the promotion
latency = 10                 # production: 2; shop, shoppers, browser and servers share one machine here
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
stages = ["compare"]         # a replayed log has too few requests for a shadow and a canary, and for a watch after
minimum_days = 0             # a promotion
bake_hours = 0
window_hours = 24
n_max = 600
min_users = 60
looks = 6
deadline_days = 42

[serving]
flush_seconds = 0.3
poll_seconds = 0.2
"""
