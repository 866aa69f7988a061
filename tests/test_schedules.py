"""Every schedule against its closed form, nested and joined, at single steps and in blocks."""

import fastopt as fo
import numpy as np
import pytest
from helpers import close_each, golden, refuses
from reference import schedules as twins
from reference import twin

CASES = {
    "constant": [((0.3,), {})],
    "step_decay": [((0.5, 7), {}), ((0.5, 3), {"factor": 0.4})],
    "exponential_decay": [((0.5, 0.9), {}), ((0.5, 0.9), {"every": 5})],
    "inverse_time_decay": [((0.5, 0.1), {})],
    "power_decay": [((0.5, 0.75), {}), ((0.5, 1.0), {})],
    "linear": [((0.5, 20), {}), ((0.1, 20), {"end": 0.4})],
    "cosine_decay": [((0.5, 20), {}), ((0.5, 20), {"end": 0.1})],
    "cosine_restarts": [((0.5, 7), {}), ((0.5, 4), {"factor": 2.0, "end": 0.01}), ((0.5, 3), {"factor": 1.5})],
    "one_cycle": [((0.5, 30), {}), ((0.5, 30), {"warmup_fraction": 0.5, "start_factor": 4.0, "end_factor": 100.0})],
    "piecewise": [(((5, 10, 11), (0.4, 0.3, 0.2, 0.1)), {})],
}


def test_every_schedule_has_a_twin_and_a_case():
    nested = {"warmup", "hold", "join"}
    for name in fo.schedules.names():
        twin(twins.SCHEDULES, "schedule", name)
        assert name in CASES or name in nested, f"tests/test_schedules.py has no case for the schedule {name!r}"


@pytest.mark.parametrize("name", CASES)
def test_closed_forms(name):
    for arguments, options in CASES[name]:
        schedule = getattr(fo.schedules, name)(*arguments, **options)
        expected = [twins.SCHEDULES[name](t, *arguments, **options) for t in range(50)]
        close_each([schedule(t) for t in range(50)], expected, 1e-14, f"{name}{arguments} {options}", 1e-16)
        close_each(schedule.values(3, 40), expected[3:43], 1e-14, f"{name}{arguments} {options} in a block", 1e-16)
        assert schedule.values(5, 0).shape == (0,)


def test_golden():
    cases, data = golden("schedules")
    for case in cases:
        arguments = [tuple(a) if isinstance(a, list) else a for a in case["args"]]
        rates = getattr(fo.schedules, case["name"])(*arguments, **case["options"]).values(0, len(data[case["name"]]))
        close_each(rates, data[case["name"]], 1e-12, case["name"], 1e-15)


def test_nesting():
    s, cosine, power = fo.schedules, fo.schedules.cosine_decay(0.5, 20), fo.schedules.power_decay(0.2, 0.6)

    def plain_cosine(t):
        return twins.cosine_decay(t, 0.5, 20)

    def plain_power(t):
        return twins.power_decay(t, 0.2, 0.6)

    pairs = {
        "warmup": (s.warmup(cosine, 5), lambda t: twins.warmup(t, plain_cosine, 5)),
        "hold": (s.hold(power, 7), lambda t: twins.hold(t, plain_power, 7)),
        "join": (s.join((cosine, power, 0.01), (6, 15)), lambda t: twins.join(t, [plain_cosine, plain_power, lambda t: 0.01], [6, 15])),
        "warmup of hold of join": (
            s.warmup(s.hold(s.join((cosine, 0.3), (4,)), 3), 2),
            lambda t: twins.warmup(t, lambda t: twins.hold(t, lambda t: twins.join(t, [plain_cosine, lambda t: 0.3], [4]), 3), 2),
        ),
        "hold of a function": (s.hold(lambda t: 1 / (t + 1), 2), lambda t: twins.hold(t, lambda t: 1 / (t + 1), 2)),
        "warmup of a number": (s.warmup(0.4, 4), lambda t: twins.warmup(t, lambda t: 0.4, 4)),
    }
    for name, (schedule, expected) in pairs.items():
        wanted = [expected(t) for t in range(40)]
        close_each(schedule.values(0, 40), wanted, 1e-14, name, 1e-16)
        close_each([schedule(t) for t in range(40)], wanted, 1e-14, f"{name}, step by step", 1e-16)


def test_conditions_of_convergence():
    """Where the docstring claims that the sum of rates diverges and that of squares does not, the numbers say so too."""
    t = 2 ** np.arange(8, 20)
    for schedule in (fo.schedules.inverse_time_decay(0.5, 0.1), fo.schedules.power_decay(0.5, 0.75), fo.schedules.power_decay(0.5, 1.0)):
        rates = schedule.values(0, int(t[-1]))
        sums, squares = np.cumsum(rates)[t - 1], np.cumsum(rates**2)[t - 1]
        growth, tail = np.diff(sums), np.diff(squares)
        assert (growth[1:] >= 0.95 * growth[:-1]).all(), f"{schedule}: the sum of rates levels off"
        assert (tail[4:] < 0.8 * tail[3:-1]).all(), f"{schedule}: the sum of squared rates does not level off"


def test_refusals():
    s = fo.schedules
    refuses("negative rate", s.constant, -0.1, errors=ValueError)
    refuses("delta too small", s.power_decay, 0.1, 0.5, errors=ValueError, match="delta")
    refuses("no steps", s.cosine_decay, 0.1, 0, errors=ValueError, match="steps")
    refuses("lengths differ", s.piecewise, (1, 2), (0.1, 0.2), errors=ValueError)
    refuses("boundaries fall", s.join, (0.1, 0.2, 0.3), (5, 2), errors=ValueError)
    refuses("a callable that gives nan", s.values, lambda t: float("nan"), 0, 3, errors=ValueError)
    for what in ("x", None, np.array([0.1, 0.2]), True, np.True_):

        def strange(t, what=what):
            return what

        refuses(f"a callable that gives {what!r}", s.values, strange, 4, 3, errors=TypeError, match="at step 4; a rate must be one number")
        refuses(f"within {what!r}", s.warmup(strange, 1), 3, errors=TypeError, match="at step 2; a rate must be one number")
    refuses("text", s.warmup, "a", 3, errors=TypeError, match="must be a number or a schedule")
    refuses("an overflow", s.values, s.exponential_decay(1.0, 1e10), 0, 100, errors=ValueError, match="gives inf at step 31")


def test_rates_of_steps_to_come():
    """That a later rate is none does not matter before its step; a function of somebody else's is asked at each step."""
    x, y = np.zeros((8, 3)), np.zeros(8)

    def trainer_of(rate):
        return fo.Trainer(fo.mlp(3, [4], 1, dtype="float64", seed=0), "mse", fo.optimizers.SGD(learning_rate=rate))

    trainer = trainer_of(fo.schedules.exponential_decay(1e-8, rate=20.0))  # infinite from step 237 on
    assert trainer.learning_rate == 1e-8
    trainer.fit(x, y, epochs=2, batch_size=4)
    refuses("in the end", trainer.fit, x, y, epochs=400, batch_size=4, errors=ValueError, match="gives inf at step")
    assert trainer.steps > 200
    box = [0.1]
    trainer = trainer_of(lambda t: box[0])
    assert trainer.learning_rate == 0.1
    box[0] = 0.0
    assert trainer.learning_rate == 0.0


def test_a_schedule_of_somebody_else():
    class Own(fo.schedules.Schedule):
        def __init__(self, rate, extra=0):
            self.rate, self.extra = rate, extra

        def rates(self, t):
            return np.full(len(t) + self.extra, self.rate)

    assert repr(Own(0.5)).startswith("Own(")
    assert Own(0.5) == Own(0.5) != Own(0.25)
    assert hash(Own(0.5)) == hash(Own(0.5))
    trainer = fo.Trainer(fo.mlp(3, [4], 1, seed=0), "mse", fo.optimizers.SGD(learning_rate=Own(0.01)))
    trainer.fit(np.zeros((8, 3)), np.zeros(8), epochs=2)
    assert "Own" in repr(trainer)
    refuses("too many", fo.schedules.values, Own(0.1, 1), 0, 3, errors=ValueError, match=r"Own must give one rate per step, shape \(3,\)")
    for schedule in (fo.schedules.linear, Own):
        refuses("a class", fo.optimizers.SGD, learning_rate=schedule, errors=TypeError, match=f"got the class {schedule.__name__}: write")
    refuses("one number", fo.schedules.join, 0.1, (2,), errors=TypeError, match="schedules must be several")
