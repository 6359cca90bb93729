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

A relay has two producers, as ``relay/publisher.py`` says why: while Kafka commits the transaction of one, what
follows goes through the other.

All events are of one row: event n leaves it in the state n. A chunk of a snapshot is the row as it was at one moment;
it goes through the same queues and logs, as ``chunk_of(state)``, a number below zero. A reader must know exactly the
events up to that state when it comes: were it behind, later events would take it back; were it ahead, the chunk would.

An event that a relay cannot publish is parked: it leaves the outbox, and nobody must have seen it, or see it later. The
two may not agree which those are: one has other limits than the other.

The steps are named as in ``rowcast.producer.relay``: take, fence, look, marker, read, park, claim, deliver, begin to
commit, commit, settle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

Events = tuple[int, ...]
Log = tuple[tuple[int, int], ...]


def chunk_of(state: int) -> int:
    return -1 - state


class Claim(NamedTuple):
    first_lsn: int
    events: Events

    @property
    def is_chunk(self) -> bool:
        return self.events[0] < 0

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + len(self.events) - 1


class Relay(NamedTuple):
    """``pending``, ``published``: claims as it knows them. ``lane``: which producer takes what is sent. ``queue``:
    (lane, event, lsn) handed over and not at the broker yet. ``sent``: the highest lsn handed over in the lane's Kafka
    transaction; 0: none is open. ``committing``: that of the other lane's, while Kafka commits it.
    ``deleted``: the events that were gone when it looked; ``read``: those it is about to claim. ``moment``: the state
    that the snapshot it has open shows; None: it has none open. ``again``: chunks to be sent again as they are."""

    at: str = "out"
    pending: tuple[Claim, ...] = ()
    published: tuple[Claim, ...] = ()
    lane: int = 0
    queue: tuple[tuple[int, int, int], ...] = ()
    sent: int = 0
    committing: int = 0
    deleted: int = 0
    read: Events = ()
    moment: int | None = None
    again: Events = ()


class State(NamedTuple):
    visible: int = 0
    """Events 1 to this are committed in the outbox."""
    deleted: int = 0
    """Events 1 to this are gone from it."""
    parked: Events = ()
    """So are these, and they were not published."""
    leader: int | None = None
    """Whose epoch is the lease's."""
    next_lsn: int = 1
    claims: tuple[Claim, ...] = ()
    producers: tuple[int | None, int | None] = (None, None)
    """Whose producer epoch is the broker's, by lane: each has its transactional.id."""
    marker: int = 0
    open: tuple[Log, Log, Log, Log] = ((), (), (), ())
    """Appended and neither committed nor aborted: of relay 0 by lane, of relay 1 by lane."""
    worker: Events = ()
    worker_lsn: int = 0
    committed: Events = ()
    relays: tuple[Relay, ...] = (Relay(), Relay())
    chunks: int = 0
    """How many were begun. Each takes new lsns, so their number must have an end."""


@dataclass(frozen=True)
class Variant:
    """The protocol, or the protocol without one of its parts."""

    fencing: bool = True
    marker: bool = True
    late_deletion: bool = True
    same_lsns: bool = True
    fence_first: bool = True
    fence_both: bool = True
    flush_first: bool = True
    commit_in_order: bool = True
    second_look: bool = True
    swap_when_claiming: bool = True
    recorded_first: bool = True
    chunk_behind_events: bool = True
    one_moment: bool = True
    chunk_read_again: bool = True
    chunk_with_new_lsns: bool = True
    swap_when_parking: bool = True
    park_before_claiming: bool = True
    unpublishable: tuple[Events, Events] = ((), ())
    """What each relay cannot publish."""


class BrokenPromiseError(Exception):
    """A reader saw something twice, out of order, or never."""


Step = tuple[str, State]


def steps(state: State, variant: Variant, events: int, chunks: int) -> Iterator[Step]:
    """Every step that can happen next, by name."""
    if state.visible < events:
        yield "the application commits", state._replace(visible=state.visible + 1)
    for lane in (0, 1):
        if any(state.open[lane::2]) and variant.fencing:
            yield f"the broker gives lane {lane}'s transaction up", _fenced(state, lane, None, variant)
    for i, relay in enumerate(state.relays):
        for name, after in _relay_steps(state, i, relay, variant, chunks):
            yield f"relay {i}: {name}", after


def _relay_steps(state: State, i: int, relay: Relay, variant: Variant, chunks: int) -> Iterator[Step]:
    if relay.at == "out":
        yield "take", _now(state._replace(leader=i), i, Relay("fence" if variant.fence_first else "look"))
        return
    yield "crash", _now(state, i, Relay())
    for lane in {entry[0] for entry in relay.queue}:
        yield f"deliver in lane {lane}", _deliver(state, i, relay, lane, variant)
    if relay.committing:
        yield "commit", _commit(state, i, relay, 1 - relay.lane, relay.committing, variant)
    match relay.at:
        case "fence":
            state = _fenced(state, 0, i, variant)
            yield "fence lane 0", _now(state, i, relay._replace(at="fence the other"))
        case "fence the other":
            if variant.fence_both:
                state = _fenced(state, 1, i, variant)
            yield "fence lane 1", _now(state, i, relay._replace(at="look" if variant.fence_first else "settle"))
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
            yield from _settle(state, i, relay, then="drop chunks")
        case "drop chunks":
            yield from _drop_chunks(state, i, relay, variant)
        case "resend" if _can_publish(i, relay.pending[0].events if relay.pending else (), variant):
            yield from _resend(state, i, relay, variant)
        case "resend" if not variant.park_before_claiming:
            yield "park what is claimed", _park_claimed(state, i, relay, variant)
        case "lead":
            yield from _lead(state, i, relay, variant)
            yield from _snapshot(state, i, relay, variant, chunks)


def _fenced(state: State, lane: int, producer: int | None, variant: Variant) -> State:
    """``init_transactions``: what the lane had open is aborted, and nobody else's epoch counts in it any more."""
    if not variant.fencing:
        return state
    producers = tuple(producer if n == lane else other for n, other in enumerate(state.producers))
    return state._replace(
        producers=producers, open=tuple(() if n % 2 == lane else log for n, log in enumerate(state.open))
    )


def _drop_chunks(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    then = relay._replace(at="resend" if variant.recorded_first else "lead")
    dropped = [c for c in relay.pending if c.is_chunk] if variant.chunk_with_new_lsns else []
    if dropped and state.leader != i:
        yield "drop chunks", _now(state, i, Relay())
        return
    if not variant.chunk_read_again:
        then = then._replace(again=tuple(c.events[0] for c in dropped))
    state = state._replace(claims=tuple(c for c in state.claims if c not in dropped))
    yield "drop chunks", _now(state, i, then._replace(pending=tuple(c for c in relay.pending if c not in dropped)))


def _snapshot(state: State, i: int, relay: Relay, variant: Variant, chunks: int) -> Iterator[Step]:
    """A moment is looked at; what it shows of the outbox is claimed as ever, and then the row as it shows it."""
    if relay.read:
        return
    if relay.again:
        yield "claim the old chunk", _claim(state, i, relay._replace(read=relay.again[:1], again=()), variant)
    elif relay.moment is None:
        if state.chunks < chunks:
            yield (
                "open a snapshot",
                _now(state._replace(chunks=state.chunks + 1), i, relay._replace(moment=state.visible)),
            )
    elif not variant.chunk_behind_events or not (left := _left(state, relay, relay.moment)):
        shown = relay.moment if variant.one_moment else state.visible
        yield "claim the chunk", _claim(state, i, relay._replace(read=(chunk_of(shown),), moment=None), variant)
    elif not _can_publish(i, left[:1], variant):
        # It is parked outside of the snapshot.
        yield "close the snapshot", _now(state, i, relay._replace(moment=None))


def _left(state: State, relay: Relay, up_to: int) -> Events:
    """What the relay finds in the outbox, and does not know to be claimed."""
    known = {e for c in (*relay.pending, *relay.published) for e in c.events} | set(state.parked)
    gone = max(relay.deleted, state.deleted)
    return tuple(e for e in range(gone + 1, up_to + 1) if e not in known)


def _can_publish(i: int, events: Events, variant: Variant) -> bool:
    return not set(events) & set(variant.unpublishable[i])


def _park(state: State, i: int, relay: Relay, event: int, variant: Variant) -> State:
    """One transaction of the database: compare and swap, and the event leaves the outbox."""
    if state.leader != i and variant.swap_when_parking:
        return _now(state, i, Relay())
    return _now(state._replace(parked=tuple(sorted({*state.parked, event}))), i, relay)


def _park_claimed(state: State, i: int, relay: Relay, variant: Variant) -> State:
    """As ``_park``, for what a predecessor has claimed; the rest of its claim keeps its lsns, where it is alone."""
    if state.leader != i:
        return _now(state, i, Relay())
    claim = relay.pending[0]
    bad = tuple(e for e in claim.events if e in variant.unpublishable[i])
    rest = [Claim(claim.first_lsn + n, (e,)) for n, e in enumerate(claim.events) if e not in bad]
    state = state._replace(
        parked=tuple(sorted({*state.parked, *bad})), claims=(*rest, *(c for c in state.claims if c != claim))
    )
    return _now(state, i, relay._replace(pending=(*rest, *relay.pending[1:])))


def _resend(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    """Recorded claims go first, one Kafka transaction each."""
    if relay.sent:
        if not relay.queue:
            yield "commit", _commit(state, i, relay, relay.lane, relay.sent, variant)
    elif not relay.pending:
        yield "lead", _now(state, i, relay._replace(at="lead"))
    else:
        claim = relay.pending[0]
        if claim.is_chunk:
            # Only where chunks are not dropped: the rows are not written down, they are read as they are now.
            claim = claim._replace(events=(chunk_of(state.visible),))
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
        left = _left(state, relay, state.visible if relay.moment is None else relay.moment)
        for n in range(1, len(left) + 1):
            if not _can_publish(i, left[:n], variant):
                if n == 1 and relay.moment is None:
                    yield f"park {left[0]}", _park(state, i, relay, left[0], variant)
                break
            yield f"read to {left[n - 1]}", _now(state, i, relay._replace(read=left[:n]))
    if relay.sent and (not relay.queue or not variant.flush_first):
        if not relay.committing:
            yield "begin to commit", _begin_to_commit(state, i, relay, variant)
        elif not variant.commit_in_order and not relay.queue:
            yield "commit the later", _commit(state, i, relay, relay.lane, relay.sent, variant)
    if not variant.recorded_first and relay.pending and not relay.sent and not relay.committing:
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
    queue = tuple((relay.lane, event, claim.first_lsn + n) for n, event in enumerate(claim.events))
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


def _deliver(state: State, i: int, relay: Relay, lane: int, variant: Variant) -> State:
    if variant.fencing and state.producers[lane] != i:
        return _now(state, i, Relay())
    at = next(n for n, entry in enumerate(relay.queue) if entry[0] == lane)
    _, event, lsn = relay.queue[at]
    if lsn > state.worker_lsn:
        state = state._replace(worker=_seen("a worker", state.worker, event, state.parked), worker_lsn=lsn)
    mine = 2 * i + lane
    opened = tuple((*log, (event, lsn)) if n == mine else log for n, log in enumerate(state.open))
    return _now(state._replace(open=opened), i, relay._replace(queue=relay.queue[:at] + relay.queue[at + 1 :]))


def _seen(who: str, before: Events, event: int, parked: Events) -> Events:
    last = max(before, default=0)
    if event < 0:
        shown = -1 - event
        if shown < last or not set(range(last + 1, shown + 1)) <= set(parked):
            raise BrokenPromiseError(f"{who} is told of the state {shown} after {before}")
        return before
    if event <= last or not set(range(last + 1, event)) <= set(parked):
        raise BrokenPromiseError(f"{who} sees event {event} after {before}")
    return (*before, event)


def _begin_to_commit(state: State, i: int, relay: Relay, variant: Variant) -> State:
    """From here on the other lane takes what is sent."""
    other = 1 - relay.lane
    if not variant.fence_both and state.producers[other] != i:
        state = _fenced(state, other, i, variant)
    return _now(state, i, relay._replace(lane=other, committing=relay.sent, sent=0))


def _commit(state: State, i: int, relay: Relay, lane: int, lsn: int, variant: Variant) -> State:
    """Atomic at the broker, the marker included. A crash right after it is one that never heard of it."""
    if variant.fencing and state.producers[lane] != i:
        return _now(state, i, Relay())
    if any(entry[0] == lane for entry in relay.queue):
        return state
    seen = state.committed
    for event, _ in state.open[2 * i + lane]:
        seen = _seen("a reader of committed data", seen, event, state.parked)
    done = tuple(c for c in relay.pending if c.last_lsn <= lsn)
    left = tuple(c for c in relay.pending if c.last_lsn > lsn)
    kept = tuple(() if n == 2 * i + lane else log for n, log in enumerate(state.open))
    state = state._replace(committed=seen, marker=lsn, open=kept)
    relay = relay._replace(pending=left, published=relay.published + done)
    return _now(state, i, relay._replace(sent=0) if lane == relay.lane else relay._replace(committing=0))


def _now(state: State, i: int, relay: Relay) -> State:
    return state._replace(relays=tuple(relay if n == i else other for n, other in enumerate(state.relays)))


def _check_nothing_is_lost(state: State) -> None:
    gone = set(range(1, state.deleted + 1)) - set(state.parked)
    if not any(state.open) and not gone <= set(state.committed):
        raise BrokenPromiseError(f"events up to {state.deleted} are deleted, {state.committed} were committed")
    if seen := set(state.parked) & {*state.worker, *state.committed}:
        raise BrokenPromiseError(f"events {seen} are parked, and were seen")


@dataclass(frozen=True)
class Result:
    """``broken``: the promise that did not hold, after ``steps``; None: none was broken in any of ``states``."""

    states: int
    broken: str | None = None
    steps: tuple[str, ...] = ()


def check(variant: Variant = Variant(), events: int = 3, chunks: int = 0) -> Result:  # immutable
    """Tries every order of steps, shortest first. Also checks that from each state all events can still arrive.

    ``chunks``: how often a snapshot is opened at most.
    """
    start = State()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    level = [start]
    before: dict[State, list[State]] = {}
    while level:
        following = []
        for state in level:
            name = ""
            try:
                for name, after in _checked_steps(state, variant, events, chunks):
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


def _checked_steps(state: State, variant: Variant, events: int, chunks: int) -> Iterator[Step]:
    for name, after in steps(state, variant, events, chunks):
        _check_nothing_is_lost(after)
        yield name, after


def _that_cannot_finish(
    states: dict[State, tuple[State, str] | None], before: dict[State, list[State]], events: int
) -> State | None:
    everything = set(range(1, events + 1))
    finished = [
        s
        for s in states
        if everything <= {*range(1, s.deleted + 1), *s.parked} and everything == {*s.committed, *s.parked}
    ]
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
