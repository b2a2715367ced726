"""Taking turns: one at a time, first come first served, and nobody waits for a whole other answer."""

import threading
import time
from itertools import pairwise

from core import serve_turns
from core.serve_turns import Turns


def test_two_who_compute_alternate_and_never_overlap(monkeypatch):
    monkeypatch.setattr(serve_turns, "SLICE", 0.0)
    turns, inside, seen, both = Turns(), [], [], threading.Barrier(2)

    def work(name):
        both.wait()
        with turns.held():
            for _ in range(50):
                inside.append(name)
                assert inside == [name]
                time.sleep(0.001)
                seen.append(name)
                inside.clear()
                turns.pass_on()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == ["a"] * 50 + ["b"] * 50
    assert sum(one != other for one, other in pairwise(seen)) > 50


def test_alone_nobody_waits():
    turns = Turns()
    began = time.monotonic()
    with turns.held():
        for _ in range(1000):
            turns.pass_on()
    with turns.held():
        pass
    assert time.monotonic() - began < 5


def test_a_failure_gives_the_turn_back():
    turns = Turns()
    try:
        with turns.held():
            raise ValueError
    except ValueError:
        pass
    done = threading.Event()

    def work():
        with turns.held():
            done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(10)
