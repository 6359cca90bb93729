"""The relay's protocol as a model small enough to try every order of steps.

Two relays, one outbox, one Kafka. Any relay may take the lease at any time (an expired lease is only a reason to do
so), may crash before and after every step, and may sleep between any two: a step of one is free to happen between
any steps of the other. A crash forgets all that a relay knows; what it has open at the broker stays open until
somebody fences it.

Epochs are not counted: all that matters is which relay holds the current one, so the state space is finite without a
limit on takeovers. Topics are not stored either: a log is read in its order, whenever that may be, so a reader's
state can move with each append (a worker, which reads uncommitted and skips lsns that are not above its highest) or
with each commit (a reader of committed data, which has no such rule and stands for compaction, too: what it sees
last is what is kept).

The steps are named as in ``rowcast.producer.relay``: take, fence, look, marker, read, claim, deliver, commit, settle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

Events = tuple[int, ...]


class Claim(NamedTuple):
    first_lsn: int
    events: Events

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + len(self.events) - 1


class Relay(NamedTuple):
    """``pending``, ``published``: claims as it knows them. ``queue``: (event, lsn) handed to the producer and not at
    the broker yet. ``sent``: the highest lsn handed over in the open Kafka transaction; 0: none is open.
    ``deleted``: the events that were gone when it looked; ``read``: those it is about to claim."""

    at: str = "out"
    pending: tuple[Claim, ...] = ()
    published: tuple[Claim, ...] = ()
    queue: tuple[tuple[int, int], ...] = ()
    sent: int = 0
    deleted: int = 0
    read: Events = ()


class State(NamedTuple):
    visible: int = 0
    """Events 1 to this are committed in the outbox."""
    deleted: int = 0
    """Events 1 to this are gone from it."""
    leader: int | None = None
    """Whose epoch is the lease's."""
    next_lsn: int = 1
    claims: tuple[Claim, ...] = ()
    producer: int | None = None
    """Whose producer epoch is the broker's."""
    marker: int = 0
    open: tuple[tuple[tuple[int, int], ...], ...] = ((), ())
    """Appended and neither committed nor aborted, by relay."""
    worker: Events = ()
    worker_lsn: int = 0
    committed: Events = ()
    relays: tuple[Relay, ...] = (Relay(), Relay())


@dataclass(frozen=True)
class Variant:
    """The protocol, or the protocol without one of its parts."""

    fencing: bool = True
    marker: bool = True
    late_deletion: bool = True
    same_lsns: bool = True
    fence_first: bool = True
    second_look: bool = True
    swap_when_claiming: bool = True
    recorded_first: bool = True


class BrokenPromiseError(Exception):
    """A reader saw something twice, out of order, or never."""


Step = tuple[str, State]


def steps(state: State, variant: Variant, events: int) -> Iterator[Step]:
    """Every step that can happen next, by name."""
    if state.visible < events:
        yield "the application commits", state._replace(visible=state.visible + 1)
    if any(state.open) and variant.fencing:
        yield "the broker gives the transaction up", state._replace(producer=None, open=((), ()))
    for i, relay in enumerate(state.relays):
        for name, after in _relay_steps(state, i, relay, variant):
            yield f"relay {i}: {name}", after


def _relay_steps(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    if relay.at == "out":
        yield "take", _now(state._replace(leader=i), i, Relay("fence" if variant.fence_first else "look"))
        return
    yield "crash", _now(state, i, Relay())
    if relay.queue:
        yield "deliver", _deliver(state, i, relay, variant)
    match relay.at:
        case "fence":
            if variant.fencing:
                state = state._replace(producer=i, open=((), ()))
            yield "fence", _now(state, i, relay._replace(at="look" if variant.fence_first else "settle"))
        case "look":
            mine = state.leader == i or not variant.second_look
            after = Relay("marker", pending=state.claims, deleted=state.deleted) if mine else Relay()
            yield "look", _now(state, i, after)
        case "marker":
            known = state.marker if variant.marker else 0
            done = tuple(c for c in relay.pending if c.last_lsn <= known)
            left = tuple(c for c in relay.pending if c.last_lsn > known)
            after = relay._replace(at="settle" if variant.fence_first else "fence", pending=left, published=done)
            yield "marker", _now(state, i, after)
        case "settle":
            yield from _settle(state, i, relay, then="resend" if variant.recorded_first else "lead")
        case "resend":
            yield from _resend(state, i, relay, variant)
        case "lead":
            yield from _lead(state, i, relay, variant)


def _resend(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    """Recorded claims go first, one Kafka transaction each."""
    if relay.sent:
        if not relay.queue:
            yield "commit", _commit(state, i, relay, variant)
    elif not relay.pending:
        yield "lead", _now(state, i, relay._replace(at="lead"))
    else:
        claim = relay.pending[0]
        if not variant.same_lsns:
            claim = Claim(state.next_lsn, claim.events)
            state = state._replace(next_lsn=claim.last_lsn + 1, claims=(claim, *state.claims[1:]))
            relay = relay._replace(pending=(claim, *relay.pending[1:]))
        yield "send again", _now(state, i, _sending(relay, claim))


def _lead(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    """The next claim is read and recorded while the last is being produced."""
    if relay.read:
        yield "claim", _claim(state, i, relay, variant)
    else:
        known = (*relay.pending, *relay.published)
        claimed = max((e for c in known for e in c.events), default=relay.deleted)
        # What is deleted is not there to be read.
        first = max(claimed, state.deleted) + 1
        for last in range(first, state.visible + 1):
            yield f"read to {last}", _now(state, i, relay._replace(read=tuple(range(first, last + 1))))
    if relay.sent and not relay.queue:
        yield "commit", _commit(state, i, relay, variant)
    if not variant.recorded_first and relay.pending and not relay.sent:
        yield "send again", _now(state, i, _sending(relay, relay.pending[0]))
    if relay.published:
        yield from _settle(state, i, relay, then="lead")


def _claim(state: State, i: int, relay: Relay, variant: Variant) -> State:
    """One transaction of the database: compare and swap, the claim, the deletion of what is published."""
    if state.leader != i and variant.swap_when_claiming:
        return _now(state, i, Relay())
    claim = Claim(state.next_lsn, relay.read)
    relay = relay._replace(pending=(*relay.pending, claim), read=())
    if not variant.late_deletion:
        relay = relay._replace(published=(*relay.published, claim))
    state = state._replace(next_lsn=claim.last_lsn + 1, claims=(*state.claims, claim))
    return _without_published(state, i, _sending(relay, claim))


def _sending(relay: Relay, claim: Claim) -> Relay:
    queue = tuple((event, claim.first_lsn + n) for n, event in enumerate(claim.events))
    return relay._replace(queue=relay.queue + queue, sent=claim.last_lsn)


def _settle(state: State, i: int, relay: Relay, then: str) -> Iterator[Step]:
    if relay.published and state.leader != i:
        yield "settle", _now(state, i, Relay())
    else:
        yield "settle", _without_published(state, i, relay._replace(at=then))


def _without_published(state: State, i: int, relay: Relay) -> State:
    gone = {c.first_lsn for c in relay.published}
    deleted = max(state.deleted, *(e for c in relay.published for e in c.events), 0)
    state = state._replace(claims=tuple(c for c in state.claims if c.first_lsn not in gone), deleted=deleted)
    return _now(state, i, relay._replace(published=(), deleted=max(relay.deleted, deleted)))


def _deliver(state: State, i: int, relay: Relay, variant: Variant) -> State:
    if variant.fencing and state.producer != i:
        return _now(state, i, Relay())
    event, lsn = relay.queue[0]
    if lsn > state.worker_lsn:
        if event != len(state.worker) + 1:
            raise BrokenPromiseError(f"a worker sees event {event} after {state.worker}")
        state = state._replace(worker=(*state.worker, event), worker_lsn=lsn)
    appended = tuple((*log, (event, lsn)) if n == i else log for n, log in enumerate(state.open))
    return _now(state._replace(open=appended), i, relay._replace(queue=relay.queue[1:]))


def _commit(state: State, i: int, relay: Relay, variant: Variant) -> State:
    """Atomic at the broker, the marker included. A crash right after it is one that never heard of it."""
    if variant.fencing and state.producer != i:
        return _now(state, i, Relay())
    seen = state.committed
    for event, _ in state.open[i]:
        if event != len(seen) + 1:
            raise BrokenPromiseError(f"a reader of committed data sees event {event} after {seen}")
        seen = (*seen, event)
    done = tuple(c for c in relay.pending if c.last_lsn <= relay.sent)
    left = tuple(c for c in relay.pending if c.last_lsn > relay.sent)
    kept = tuple(() if n == i else log for n, log in enumerate(state.open))
    state = state._replace(committed=seen, marker=relay.sent, open=kept)
    return _now(state, i, relay._replace(pending=left, published=relay.published + done, sent=0))


def _now(state: State, i: int, relay: Relay) -> State:
    return state._replace(relays=tuple(relay if n == i else other for n, other in enumerate(state.relays)))


def _check_nothing_is_lost(state: State) -> None:
    if not any(state.open) and state.deleted > len(state.committed):
        raise BrokenPromiseError(f"events up to {state.deleted} are deleted, {state.committed} were committed")


@dataclass(frozen=True)
class Result:
    """``broken``: the promise that did not hold, after ``steps``; None: none was broken in any of ``states``."""

    states: int
    broken: str | None = None
    steps: tuple[str, ...] = ()


def check(variant: Variant = Variant(), events: int = 3) -> Result:  # immutable
    """Tries every order of steps, shortest first. Also checks that from each state all events can still arrive."""
    start = State()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    level = [start]
    before: dict[State, list[State]] = {}
    while level:
        following = []
        for state in level:
            name = ""
            try:
                for name, after in _checked_steps(state, variant, events):
                    before.setdefault(after, []).append(state)
                    if after not in came_from:
                        came_from[after] = state, name
                        following.append(after)
            except BrokenPromiseError as error:
                return Result(len(came_from), str(error), _way(came_from, state))
        level = following
    stuck = _that_cannot_finish(came_from, before, events)
    if stuck is not None:
        return Result(len(came_from), "not every event can arrive any more", _way(came_from, stuck))
    return Result(len(came_from))


def _checked_steps(state: State, variant: Variant, events: int) -> Iterator[Step]:
    for name, after in steps(state, variant, events):
        _check_nothing_is_lost(after)
        yield name, after


def _that_cannot_finish(
    states: dict[State, tuple[State, str] | None], before: dict[State, list[State]], events: int
) -> State | None:
    finished = [s for s in states if s.deleted == events and len(s.committed) == events]
    can = set(finished)
    while finished:
        for earlier in before.get(finished.pop(), ()):
            if earlier not in can:
                can.add(earlier)
                finished.append(earlier)
    return next((s for s in states if s not in can), None)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    way = []
    step = came_from[state]
    while step is not None:
        way.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(way))
