"""The checker of histories, and the histories of simulated clusters."""

import itertools
import random

import pytest

from tests.fuzzy.__main__ import quiet
from tests.lib import linearizability
from tests.lib.linearizability import CAS, GET, OPEN, PUT, Operation, check
from tests.lib.simulation import world


def put(start: float, end: float, value: int, key: int = 0) -> Operation:
    return Operation(PUT, key, start, end, value, result=True if end != OPEN else None)


def get(start: float, end: float, result: int, key: int = 0) -> Operation:
    return Operation(GET, key, start, end, result=result)


def cas(start: float, end: float, expected: int, value: int, result: bool | None, key: int = 0) -> Operation:
    return Operation(CAS, key, start, end, value, expected, result)


GOOD = {
    "nothing": [],
    "one after the other": [put(1, 2, 7), get(3, 4, 7), cas(5, 6, 7, 8, True), get(7, 8, 8)],
    "initial value": [get(1, 2, 0)],
    "a read beside a write sees the old value": [put(1, 4, 7), get(2, 3, 0)],
    "a read beside a write sees the new value": [put(1, 4, 7), get(2, 3, 7)],
    "concurrent writes in the order of the reads": [put(1, 9, 1), put(2, 8, 2), get(3, 4, 2), get(5, 6, 1)],
    "a write without an answer takes effect late": [put(1, OPEN, 5), get(2, 3, 0), get(4, 5, 5)],
    "a write without an answer never takes effect": [put(1, OPEN, 5), get(2, 3, 0), get(4, 5, 0)],
    "a swap without an answer took effect": [cas(1, OPEN, 0, 3, None), get(2, 3, 3)],
    "a swap that failed": [put(1, 2, 4), cas(3, 4, 0, 9, False), get(5, 6, 4)],
    "a swap that fails because of a write nobody answered": [put(1, OPEN, 4), cas(2, 3, 0, 9, False)],
    "registers do not mind each other": [put(1, 2, 7, key=1), get(3, 4, 0, key=2), get(5, 6, 7, key=1)],
}

BAD = {
    "a read of what was never written": [put(1, 2, 7), get(3, 4, 8)],
    "a stale read": [put(1, 2, 7), put(3, 4, 8), get(5, 6, 7)],
    "a lost write": [put(1, 2, 7), get(3, 4, 0)],
    "two reads in the wrong order": [put(1, 10, 7), get(2, 3, 7), get(4, 5, 0)],
    "two readers that disagree on the order": [
        *(put(1, 20, 1), put(2, 20.5, 2)),
        *(get(3, 4, 1), get(5, 6, 2), get(7, 8, 1)),
    ],
    "two swaps from the same value": [cas(1, 4, 0, 1, True), cas(2, 3, 0, 2, True)],
    "a swap that failed though it should not": [put(1, 2, 4), cas(3, 4, 4, 9, False)],
    "a swap that succeeded though it should not": [put(1, 2, 4), cas(3, 4, 5, 9, True)],
    "a write without an answer takes effect twice": [put(1, OPEN, 5), get(2, 3, 5), put(4, 5, 6), get(6, 7, 5)],
    "one bad register among good ones": [put(1, 2, 7, key=1), get(3, 4, 7, key=1), get(5, 6, 9, key=2)],
}


@pytest.mark.parametrize("name", GOOD)
def test_linearizable_histories_pass(name: str) -> None:
    """An order that a single register could have executed is found."""
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_other_histories_fail(name: str) -> None:
    """No such order exists, and the answer says on which register."""
    failure = check(BAD[name])
    assert failure is not None
    assert f"register {failure.key} is not linearizable" in repr(failure)
    assert failure.stuck


def brute_force(ops: list[Operation]) -> bool:
    """Try every order of every choice of the operations without an answer."""
    answered = [op for op in ops if op.end != OPEN]
    silent = [op for op in ops if op.end == OPEN]
    for n in range(len(silent) + 1):
        for chosen in itertools.combinations(silent, n):
            if any(executes(order) for order in itertools.permutations([*answered, *chosen])):
                return True
    return False


def executes(order: tuple[Operation, ...]) -> bool:
    value = 0
    for i, op in enumerate(order):
        if any(later.end < op.start for later in order[i + 1 :]):
            return False
        if op.kind == PUT:
            value = op.value
        elif op.kind == GET:
            if op.end != OPEN and op.result != value:
                return False
        else:
            swaps = value == op.expected
            if op.end != OPEN and op.result != swaps:
                return False
            value = op.value if swaps else value
    return True


@pytest.mark.parametrize("seed", range(8))
def test_the_search_agrees_with_trying_every_order(seed: int) -> None:
    """On small random histories, half of them linearizable, the answer is that of brute force."""
    dice = random.Random(seed)
    verdicts = []
    for _ in range(60):
        points = dice.sample(range(100), 12)
        ops = []
        for i in range(6):
            start, end = sorted(points[2 * i : 2 * i + 2])
            op = Operation(dice.choice((PUT, GET, CAS)), 0, start, end if dice.random() < 0.8 else OPEN)
            op.value = dice.randint(1, 2)
            op.expected = dice.randint(0, 2)
            op.result = dice.randint(0, 2) if op.kind == GET else op.kind == PUT or dice.random() < 0.5
            ops.append(op)
        verdicts.append(check(ops) is None)
        assert verdicts[-1] == brute_force(ops), ops
    assert 0 < sum(verdicts) < 60


def test_long_histories_are_decided_quickly() -> None:
    """Five clients, thousands of operations: no state is searched twice."""
    dice = random.Random(1)
    ops, now, value = [], 0, 0
    for i in range(600):
        starts = [now + k for k in range(5)]
        effects = dice.sample(range(5), 5)
        ends = [now + 5 + k for k in range(5)]
        now += 10
        for k in effects:
            if dice.random() < 0.5:
                value = 10 * i + k + 1
                ops.append(put(starts[k], ends[k], value))
            else:
                ops.append(get(starts[k], ends[k], value))
    assert check(ops) is None
    ops[-1] = get(now + 1, now + 2, -1)
    assert check(ops) is not None


def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undecided is an answer of its own."""
    monkeypatch.setattr(linearizability, "MAX_STEPS", 10)
    ops = [put(i, 100 + i, i) for i in range(20)]
    with pytest.raises(linearizability.Undecided, match="20 operations"):
        check(ops)


def test_histories_of_clusters_under_faults_are_linearizable() -> None:
    """Clients of simulated clusters: commands lost, repeated by nobody, answered late or never, but in one order."""
    quiet()
    operations = undecided = 0
    for seed in range(2000, 2080):
        cluster = world.run(seed, 3000)
        operations += sum(op.end != OPEN for op in cluster.history)
        try:
            failure = check(cluster.history)
        except linearizability.Undecided:
            undecided += 1
            continue
        assert failure is None, f"{cluster.command()}: {failure!r}"
    assert operations > 5000
    assert undecided <= 2


def test_a_lost_write_in_the_history_of_a_cluster_is_found() -> None:
    """The check of the test above can fail: one answered read is changed to a value that was overwritten before."""
    for seed in itertools.count(2000):
        history = world.run(seed, 3000).history
        for i, op in enumerate(history):
            older = [o for o in history[:i] if o.kind == PUT and o.key == op.key and o.end < op.start]
            if op.kind == GET and op.end != OPEN and len(older) >= 2 and op.result != older[0].value:
                between = [o for o in older[1:] if o.start > older[0].end]
                swaps = {o.value for o in history if o.kind == CAS}
                if between and older[0].value not in swaps:
                    op.result = older[0].value
                    assert check(history) is not None
                    return
