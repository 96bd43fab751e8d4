"""The learning rate over a training, as a share of its peak.

With t in [0, 1] the share of the training that is done, w the warm-up and f the floor, the factor is rise(t) · fall(t):

    rise(t)         = min(1, (t + 0.001) / w), or 1 without a warm-up; the 0.001 keeps the first step from being void
    cosine          f + (1 − f) · (1 + cos πt) / 2     Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5, one cycle
    linear          f + (1 − f) · (1 − t)              Devlin et al., BERT, NAACL 2019, appendix A.2
    inverse_sqrt    max(f, √(w / max(t, w)))           Vaswani et al., NeurIPS 2017, eq. 3, peak at the warm-up's end
    constant        1
"""

import math

from model.optimizers.options import Schedule

HEAD_START = 1e-3


def factor(schedule: Schedule, done: float, *, warm_up: float, floor: float) -> float:
    """In (0, 1] wherever the floor is above 0 or the training not done. `done`: share of the training, in [0, 1]."""
    rise = min(1.0, (done + HEAD_START) / warm_up) if warm_up else 1.0
    if schedule is Schedule.COSINE:
        return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
    if schedule is Schedule.LINEAR:
        return rise * (floor + (1 - floor) * (1 - done))
    if schedule is Schedule.INVERSE_SQRT:
        return rise * max(floor, math.sqrt(warm_up / max(done, warm_up)))
    return rise
