"""A lease: credit of one organization that this process may spend without asking. Pure arithmetic.

The database grants and takes back in absolute totals (`granted`, `returned` since the process
began), so an answer that was lost, or came twice, changes nothing. Amounts are nano-dollars.

    free = granted - returned - (spent - beyond) - held

Two rules keep the sum of all leases within the organization's credit: what is to be returned is
taken out of `free` before the database is told, and is never put back when telling it fails; only
a grant that the database has confirmed is added. `free` falls below zero only by calls that cost
more than was held for them; what has been charged beyond the lease for them (`beyond`) burdens it
no longer, else it would be paid a second time out of the next grant, which nobody could spend.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Lease:
    """One organization's credit in the hands of one process."""

    granted: int = 0
    returned: int = 0
    spent: int = 0
    held: int = 0
    beyond: int = 0
    # When it was last used, by a monotonic clock: idle credit goes back.
    used_at: float = 0.0

    @property
    def free(self) -> int:
        """What may still be held for calls."""
        return self.granted - self.returned - self.spent + self.beyond - self.held

    def hold(self, nanos: int) -> bool:
        """Set `nanos` aside for a call; False, and nothing happens, when too little is free."""
        if self.free < nanos:
            return False
        self.held += nanos
        return True

    def settle(self, held_nanos: int, cost_nanos: int) -> None:
        """A call that held `held_nanos` has ended and cost `cost_nanos`."""
        self.held -= held_nanos
        self.spent += cost_nanos

    def confirm(self, granted: int, beyond: int = 0) -> None:
        """The database says how much it has granted in all, and charged beyond that.

        An older answer changes nothing.
        """
        self.granted = max(self.granted, granted)
        self.beyond = max(self.beyond, beyond)

    def give_back(self, keep: int = 0) -> int:
        """Take everything free above `keep` out; the new total to be returned, for the database."""
        self.returned += max(0, self.free - keep)
        return self.returned
