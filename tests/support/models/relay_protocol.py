"""Model the relay's protocol, small enough for a search through every order of steps.

The world has two relays, an outbox and a Kafka. Any relay may take the lease at any time, because the expiry of a lease
is only a reason to take the lease. A relay may crash before and after every step, and may sleep between any two steps.
A step of a relay can therefore happen between any steps of the second relay. A crashed relay forgets everything. Its
open Kafka transactions stay open until a relay fences them.

Epochs are not counted. Only the current leader matters, so the state space is finite without a limit on takeovers.

Relays with equal limits are interchangeable. The search therefore calls the relay that took the lease last relay 0, and
needs only half of the states.

Topics are not stored. Readers read a log in order at any time, so the state of a reader can move with each append or
with each commit. A worker moves with each append: the worker reads uncommitted events and skips lsns at or below its
highest lsn. A reader of committed events moves with each commit, and has no rule for lsns. The reader of committed
events also stands for compaction, because compaction keeps the last event.

A relay has two producers, for the reason given in ``relay/kafka/publisher.py``: while Kafka commits the transaction of
the first producer, the relay sends through the second.

All events are changes of a single row: event n leaves the row in state n. A chunk of a snapshot holds the row as of one
moment. The chunk goes through the queues and logs of events, as ``chunk_of(state)``, a number below zero. When a reader
meets the chunk, the reader must know exactly the events up to the state of the chunk. If the reader knew fewer events,
later events would undo the chunk. If the reader knew more events, the chunk would undo those events.

A relay parks an unpublishable event. A parked event leaves the outbox. No reader may have seen a parked event, or see a
parked event later. The two relays may disagree about an event, because their limits may differ.

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
    """Hold the knowledge of a relay.

    ``pending``, ``published``: the relay's claims. ``lane``: the sending producer, 0 or 1. ``queue``: (lane, event,
    lsn) of messages on the way to the broker. ``sent``: the highest lsn in the open Kafka transaction of the lane, or 0
    if no transaction is open. ``committing``: the highest lsn in the transaction of the other lane, while Kafka commits
    the transaction. ``deleted``: the events missing at the last read of the outbox. ``read``: the events to claim next.
    ``moment``: the state shown by the open snapshot, or None. ``again``: chunks to send again unchanged.
    """

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
    """Events 1 to ``visible`` are committed in the outbox."""
    deleted: int = 0
    """Events 1 to ``deleted`` have left the outbox."""
    parked: Events = ()
    """Parked events have left the outbox, too, and were not published."""
    leader: int | None = None
    """The relay with the epoch of the lease."""
    next_lsn: int = 1
    claims: tuple[Claim, ...] = ()
    producers: tuple[int | None, ...] = (None, None)
    """The relay with the producer epoch accepted by the broker, by lane. Each lane has a transactional.id."""
    marker: int = 0
    open: tuple[Log, ...] = ((), (), (), ())
    """Messages that are appended, and neither committed nor aborted: two lanes of relay 0, then two lanes of relay 1.
    """
    worker: Events = ()
    worker_lsn: int = 0
    committed: Events = ()
    relays: tuple[Relay, ...] = (Relay(), Relay())
    chunks: int = 0
    """The number of snapshots begun. Each snapshot takes new lsns, so a limit keeps the state space finite."""


@dataclass(frozen=True)
class Variant:
    """Choose the parts of the protocol. A search without a part must find a broken promise."""

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
    replay_in_order: bool = True
    chunk_behind_events: bool = True
    one_moment: bool = True
    chunk_read_again: bool = True
    chunk_with_new_lsns: bool = True
    swap_when_parking: bool = True
    park_before_claiming: bool = True
    unpublishable: tuple[Events, Events] = ((), ())
    """The unpublishable events of each relay."""

    @property
    def has_equal_relays(self) -> bool:
        return self.unpublishable[0] == self.unpublishable[1]


class BrokenPromiseError(Exception):
    """Report that a reader saw an event twice, out of order, or never."""


Step = tuple[str, State]


def steps(state: State, variant: Variant, events: int, chunks: int) -> Iterator[Step]:
    """Yield every step that can happen next, by name."""
    if state.visible < events:
        yield "the application commits", state._replace(visible=state.visible + 1)
    for lane in (0, 1):
        if any(state.open[lane::2]) and variant.fencing:
            yield f"the broker gives lane {lane}'s transaction up", _fenced(state, lane, None, variant)
    for i, relay in enumerate(state.relays):
        for name, after in _relay_steps(state, i, relay, variant, chunks):
            renames = after.leader == 1 and variant.has_equal_relays
            yield f"relay {i}: {name}", _with_exchanged_relays(after) if renames else after


def _with_exchanged_relays(state: State) -> State:
    """Return the same state, with the numbers of the two relays exchanged."""
    producers = tuple(None if relay is None else 1 - relay for relay in state.producers)
    leader = None if state.leader is None else 1 - state.leader
    opened, relays = (*state.open[2:], *state.open[:2]), (*state.relays[1:], *state.relays[:1])
    return state._replace(leader=leader, producers=producers, open=opened, relays=relays)


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
        case "resend":
            yield from _resend(state, i, relay, variant)
        case "lead":
            yield from _lead(state, i, relay, variant)
            yield from _snapshot(state, i, relay, variant, chunks)


def _fenced(state: State, lane: int, producer: int | None, variant: Variant) -> State:
    """Run ``init_transactions``: abort the open transaction of the lane, and fence all other epochs."""
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
    """Open a snapshot, claim the outbox rows that the snapshot shows, and then claim the row as shown."""
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
        # The event is parked outside the snapshot.
        yield "close the snapshot", _now(state, i, relay._replace(moment=None))


def _left(state: State, relay: Relay, up_to: int) -> Events:
    """Return the events that the relay finds in the outbox and has not claimed."""
    known = {e for c in (*relay.pending, *relay.published) for e in c.events} | set(state.parked)
    gone = max(relay.deleted, state.deleted)
    return tuple(e for e in range(gone + 1, up_to + 1) if e not in known)


def _can_publish(i: int, events: Events, variant: Variant) -> bool:
    return not set(events) & set(variant.unpublishable[i])


def _park(state: State, i: int, relay: Relay, event: int, variant: Variant) -> State:
    """Park an event in one database transaction: compare and swap the lease, and remove the event from the outbox."""
    if state.leader != i and variant.swap_when_parking:
        return _now(state, i, Relay())
    return _now(state._replace(parked=tuple(sorted({*state.parked, event}))), i, relay)


def _park_claimed(state: State, i: int, relay: Relay, claim: Claim, variant: Variant) -> State:
    """Park an event that a predecessor has claimed. The rest of the claim keeps the lsns."""
    if state.leader != i:
        return _now(state, i, Relay())
    bad = tuple(e for e in claim.events if e in variant.unpublishable[i])
    rest = [Claim(claim.first_lsn + n, (e,)) for n, e in enumerate(claim.events) if e not in bad]
    state = state._replace(
        parked=tuple(sorted({*state.parked, *bad})), claims=(*rest, *(c for c in state.claims if c != claim))
    )
    return _now(state, i, relay._replace(pending=(*rest, *(c for c in relay.pending if c != claim))))


def _resend(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    """Send the recorded claims first, in order. A Kafka transaction takes any number of the claims."""
    if relay.sent and not relay.queue:
        yield "commit", _commit(state, i, relay, relay.lane, relay.sent, variant)
    sent = {lsn for _, _, lsn in relay.queue} | {lsn for _, lsn in state.open[2 * i + relay.lane]}
    waiting = [n for n, claim in enumerate(relay.pending) if claim.last_lsn not in sent]
    if not waiting:
        if not relay.sent:
            yield "lead", _now(state, i, relay._replace(at="lead"))
        return
    for n in waiting if not variant.replay_in_order else waiting[:1]:
        claim = relay.pending[n]
        if _can_publish(i, claim.events, variant):
            yield "send again", _send_again(state, i, relay, n, variant)
        elif not relay.sent and not variant.park_before_claiming:
            yield "park what is claimed", _park_claimed(state, i, relay, claim, variant)


def _send_again(state: State, i: int, relay: Relay, n: int, variant: Variant) -> State:
    claim = relay.pending[n]
    if claim.is_chunk:
        # Only a variant that does not drop chunks arrives here. The claim does not contain the rows, so the relay
        # reads the current state.
        claim = claim._replace(events=(chunk_of(state.visible),))
    if not variant.same_lsns:
        recorded = claim
        claim = Claim(state.next_lsn, claim.events)
        state = state._replace(
            next_lsn=claim.last_lsn + 1, claims=tuple(claim if c == recorded else c for c in state.claims)
        )
        relay = relay._replace(pending=(*relay.pending[:n], claim, *relay.pending[n + 1 :]))
    return _now(state, i, _sending(relay, claim))


def _lead(state: State, i: int, relay: Relay, variant: Variant) -> Iterator[Step]:
    """Read and record the next claim while the last claim is being sent."""
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
    """Write in one database transaction: compare and swap, the claim, and the deletion of published events."""
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
    return relay._replace(queue=relay.queue + queue, sent=max(relay.sent, claim.last_lsn))


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
            raise BrokenPromiseError(f"{who} reads the state {shown} after {before}")
        return before
    if event <= last or not set(range(last + 1, event)) <= set(parked):
        raise BrokenPromiseError(f"{who} sees event {event} after {before}")
    return (*before, event)


def _begin_to_commit(state: State, i: int, relay: Relay, variant: Variant) -> State:
    """Begin a commit. Afterwards the other lane sends."""
    other = 1 - relay.lane
    if not variant.fence_both and state.producers[other] != i:
        state = _fenced(state, other, i, variant)
    return _now(state, i, relay._replace(lane=other, committing=relay.sent, sent=0))


def _commit(state: State, i: int, relay: Relay, lane: int, lsn: int, variant: Variant) -> State:
    """Commit at the broker, atomically with the marker.

    A relay that crashes right afterwards does not know of the commit.
    """
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
    """Hold the result of a search.

    ``broken``: the promise broken by ``steps``, or None if every promise held in all ``states``.
    """

    states: int
    broken: str | None = None
    steps: tuple[str, ...] = ()


class _Search:
    """Number the states in the order of their discovery, because the hash of a state is expensive."""

    def __init__(self, start: State) -> None:
        self.states = [start]
        self.before: list[list[int]] = [[]]
        """The states from which a single step leads to the state. The step from the first is among the shortest ways.
        """
        self._numbers = {start: 0}
        self._names = [""]

    def add(self, state: State, before: int, name: str) -> bool:
        """Add a step, and return whether the state is new."""
        number = self._numbers.setdefault(state, len(self.states))
        if number < len(self.states):
            self.before[number].append(before)
            return False
        self.states.append(state)
        self.before.append([before])
        self._names.append(name)
        return True

    def way(self, number: int) -> tuple[str, ...]:
        """Return the names of the steps of a shortest way to the state."""
        names: list[str] = []
        while number:
            names.append(self._names[number])
            number = self.before[number][0]
        return tuple(reversed(names))


def check(variant: Variant = Variant(), events: int = 3, chunks: int = 0) -> Result:  # immutable
    """Try every order of steps, shortest first, and check for each state whether all events can still arrive.

    ``chunks``: the largest number of snapshots to open.
    """
    search = _Search(State())
    # The loop also visits the states that it adds.
    for number, state in enumerate(search.states):
        try:
            for name, after in steps(state, variant, events, chunks):
                if search.add(after, number, name):
                    _check_nothing_is_lost(after)
        except BrokenPromiseError as error:
            return Result(len(search.states), str(error), search.way(number))
    stuck = _that_cannot_finish(search, events)
    if stuck is not None:
        return Result(len(search.states), "not every event can arrive any more", search.way(stuck))
    return Result(len(search.states))


def _that_cannot_finish(search: _Search, events: int) -> int | None:
    everything = set(range(1, events + 1))
    finished = [
        number
        for number, s in enumerate(search.states)
        if everything <= {*range(1, s.deleted + 1), *s.parked} and everything == {*s.committed, *s.parked}
    ]
    can = set(finished)
    while finished:
        for earlier in search.before[finished.pop()]:
            if earlier not in can:
                can.add(earlier)
                finished.append(earlier)
    return next((number for number in range(len(search.states)) if number not in can), None)
