"""Lease arithmetic: whatever is lost or repeated on the way, no credit is made."""

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.journal.lease import Lease


def test_a_hold_takes_and_a_settlement_returns_what_was_not_spent():
    lease = Lease()
    lease.confirm(100)
    assert lease.hold(60)
    assert not lease.hold(41)
    lease.settle(60, 25)
    assert (lease.free, lease.spent, lease.held) == (75, 25, 0)


def test_a_call_dearer_than_its_hold_uses_what_is_free_and_then_owes():
    lease = Lease()
    lease.confirm(100)
    assert lease.hold(10)
    lease.settle(10, 130)
    assert lease.free == -30
    assert not lease.hold(1)
    assert lease.give_back() == 0


def test_what_was_charged_beyond_the_lease_burdens_the_next_grant_no_more():
    lease = Lease()
    lease.confirm(100)
    assert lease.hold(100)
    lease.settle(100, 130)
    lease.confirm(150, beyond=30)
    assert lease.free == 50


def test_an_older_answer_changes_nothing():
    lease = Lease()
    lease.confirm(100, beyond=20)
    lease.confirm(40, beyond=10)
    assert (lease.granted, lease.beyond) == (100, 20)


class Leasing(RuleBasedStateMachine):
    """Two processes and one database: answers and requests are lost, repeated and delayed."""

    CREDIT = 1000

    def __init__(self):
        super().__init__()
        self.leases = [Lease(), Lease()]
        self.granted, self.returned = [0, 0], [0, 0]
        self.holds = [[], []]
        self.late = []

    def reserved(self):
        return sum(self.granted) - sum(self.returned)

    @rule(which=st.integers(0, 1), want=st.integers(1, 400), is_answered=st.booleans())
    def grant(self, which, want, is_answered):
        self.granted[which] += min(want, self.CREDIT - self.reserved())
        if is_answered:
            self.leases[which].confirm(self.granted[which])
        else:
            self.late.append((which, self.granted[which]))

    @precondition(lambda self: self.late)
    @rule()
    def a_late_answer_arrives(self):
        which, granted = self.late.pop()
        self.leases[which].confirm(granted)

    @rule(which=st.integers(0, 1), nanos=st.integers(1, 300))
    def hold(self, which, nanos):
        if self.leases[which].hold(nanos):
            self.holds[which].append(nanos)

    @precondition(lambda self: any(self.holds))
    @rule(share=st.floats(0, 1))
    def settle(self, share):
        which = 0 if self.holds[0] else 1
        held = self.holds[which].pop()
        self.leases[which].settle(held, int(held * share))

    @rule(which=st.integers(0, 1), arrives=st.integers(0, 2))
    def give_back(self, which, arrives):
        total = self.leases[which].give_back()
        for _ in range(arrives):
            self.returned[which] = max(self.returned[which], total)

    @invariant()
    def no_more_is_spent_and_held_than_there_is(self):
        assert sum(lease.spent + lease.held for lease in self.leases) <= self.CREDIT
        for which, lease in enumerate(self.leases):
            assert lease.spent + lease.held + lease.free <= self.granted[which]
            assert lease.free >= 0


Leasing.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=30)
TestLeasing = Leasing.TestCase
