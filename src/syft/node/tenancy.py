"""A client's tenancy at a node: its room, the private data that entered it, and what may leave it.

Everything that a room says is judged here, by the policies of all private data that entered, before
it goes on: values, metadata that the caller could not tell beforehand, and errors; what the room asks
of workers elsewhere, in :mod:`syft.node.routes`. Where nothing private entered, all is the client's own.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from .. import limits, messages, wire
from ..errors import (
    BY_CODE,
    AuditFailed,
    GetNotPermitted,
    LimitExceeded,
    MalformedMessage,
    NotPermitted,
    SendNotPermitted,
    SyftError,
)
from ..messages import Confirm, Done, Failure, Found, Message, Placed, Put, Ran, State
from ..wire import Meta
from .audit import Entry
from .connection import Connection
from .data import Offer
from .engines import Death, Engine, Order
from .records import FOR_THE_GATE, Answered, Batch, Frames, RawAnswered, header, peek_tag
from .release import Approval, Decision, Policy, Release, ShapeToCaller, ToCaller, ToWorker, judge, owners_to_ask
from .requests import Standing
from .rooms import Room, failed
from .routes import Routes
from .state import NodeState, Tenant

_log = logging.getLogger(__name__)


def _tag(kind: type[Message]) -> bytes:
    return str(kind.__struct_config__.tag).encode()


#: How a room answers what is for it, if that has not failed.
ANSWERS = {_tag(asked): _tag(answers[0]) for asked, answers in messages.ANSWERS.items() if asked not in FOR_THE_GATE}

#: The same, with what the gate asks the room for by a Get.
_ANSWERS = {**ANSWERS, b"give": b"value", b"ask": b"value"}

#: What may be answered with Done whether or not it was done. To be told that a worker may use an object is a yes.
_DONE_AT_LEAST = {_tag(asked) for asked, answers in messages.ANSWERS.items() if Done in answers} - {_tag(Confirm)}

#: That an operator that gives nothing did not fail, as one that checks what another gave.
_RAN_FOR_NOTHING = msgspec.msgpack.encode(Ran(()))


class Tenancy:
    """What the gate knows of one client's room, and lets out of it.

    Args:
        client: whose room it is, by certificate; everything is released in this name.
        dial: connects to a worker, by name and address.
        call_client: sends a record down a session of the client's, by the client's name and the session's token.
        changed: called when private data has entered.
        died: called once, if the room ends by itself.
    """

    def __init__(
        self,
        client: str,
        engine: Engine,
        state: NodeState,
        dial: Callable[[str, str], Connection],
        call_client: Callable[[str, str, Frames], None],
        changed: Callable[[], None],
        died: Callable[[Tenancy, Room], None],
    ) -> None:
        self.client, self.name = client, secrets.token_hex(6)
        self.since = datetime.now(UTC)
        self.entered: frozenset[Policy] = frozenset()
        self._state, self._changed = state, changed
        self._lock = threading.Lock()  # of what is offered; held for a moment only
        self._entering = threading.RLock()  # one after another enters; held until the room has taken it
        self._ended = threading.Event()
        self._tasks = ThreadPoolExecutor(limits.TASKS_OF_A_ROOM, f"task of {client}")
        self._places = threading.BoundedSemaphore(limits.TASKS_WAITING)
        # By which policies a release was permitted, while it is awaited.
        self._noted: dict[Release, tuple[str, ...]] = {}
        # The owner's data has ids of this tenancy's own, and enters when one of them is first used.
        self._offered = {_new_id(): offer for offer in state.offers if offer.policy.lets_use(client)}
        self._outside = dict(self._offered)
        own = state.limits
        order = Order(state.owner, own.room_memory, own.room_cpu_seconds, own.room_objects, own.room_bytes)
        self.routes = Routes(self, state, dial, call_client)
        self.room = Room(engine, order, self.routes.call, lambda room: died(self, room), self._tells_ending)

    @property
    def shown(self) -> Tenant:
        """What the owner sees of it."""
        return Tenant(self.name, self.client, self.room.pid, self.room.place, self.since, self._data)

    @property
    def _data(self) -> tuple[str, ...]:
        return tuple(sorted({policy.name for policy in self.entered}))

    def start(self, work: Callable[..., Frames], *arguments: Any) -> Future[Frames]:
        """Have something done that takes its time, beside what else the client asks.

        Raises LimitExceeded: too much waits to be done.
        """
        if not self._places.acquire(blocking=False):
            raise LimitExceeded(
                f"{limits.TASKS_WAITING} moves and requests of yours wait to be done already",
                where=self._state.owner,
                mend="Wait for some of them.",
            )
        done = self._tasks.submit(work, *arguments)
        done.add_done_callback(lambda _: self._places.release())
        return done

    def close(self) -> None:
        """End the room, and hang up its calls."""
        self._ended.set()
        self.room.close()
        self._tasks.shutdown(wait=False, cancel_futures=True)
        self.routes.close()

    # ---- what enters ----

    def enter(self, policies: Iterable[Policy]) -> None:
        """Data of these policies is about to enter the room.

        What the room has begun to say is said first: it has been judged by what had entered before.
        Raises LimitExceeded; NotPermitted: this node's owner has no such policy.
        """
        policies = frozenset(policies)
        if not policies:
            return
        with self._entering:  # who brings the same waits for those answers as well
            new = policies - self.entered
            if not new:
                return
            owned = {offer.policy for offer in self._state.offers}
            if any(policy.owner == self._state.owner and policy not in owned for policy in new):
                raise NotPermitted("the owner of this node has no such policy", where=self._state.owner)
            if len(self.entered | new) > limits.MAX_POLICIES:
                raise LimitExceeded(
                    f"the data in a room has {limits.MAX_POLICIES} policies at most", where=self._state.owner
                )
            self.entered |= new  # before the wait: what the room begins to say meanwhile is judged by them
            self.room.finish_answers()
        self._changed()

    def bring_in(self, header: wire.Frame) -> None:
        """Put in the room what of the owner's data the batch of this header names.

        An id stands in a header as its eight bytes. A client that found another way to write it
        would find nothing in the room.
        """
        if not self._outside:
            return
        header = bytes(header)
        with self._entering:
            with self._lock:
                named = [(id, offer) for id, offer in self._outside.items() if id.to_bytes(8, "big") in header]
            for id, offer in named:
                self.enter([offer.policy])
                put = Put(id, offer.value, offer.label.tags, offer.label.description)
                batch = Batch(1, False, 0, [put], depth=limits.CHAIN_HOPS)  # before whatever names it
                self.room.send(wire.encode(batch), 1, None)
                with self._lock:
                    del self._outside[id]  # only now: until then nobody's batch that names it goes on

    def offer_anew(self, ids: Collection[int] | None = None) -> None:
        """The room has nothing under these ids, or any, any more; the owner's data there is found again, by others."""
        with self._lock:
            entered = self._offered.keys() - self._outside.keys()
            for id in entered if ids is None else entered.intersection(ids):
                new = _new_id()
                self._offered[new] = self._outside[new] = self._offered.pop(id)

    # ---- what may leave ----

    def decide(self, release: Release) -> Decision:
        """Judge a release by all that has entered so far. Raises AuditFailed."""
        entered = self.entered
        approvals = self._state.requests.approvals(self.client, self.name) if entered else ()
        return judge(release, self.client, self.name, entered, approvals)

    def note(self, release: Release, decision: Decision) -> None:
        """Write down a release and its answer. Raises AuditFailed."""
        self._state.audit.note(self.client, self.name, release, decision, self._ended)

    def write(self, entry: Entry) -> None:
        """Write down what is no release. Raises AuditFailed."""
        self._state.audit.append(entry, self._ended)

    def permit(self, release: Release) -> Decision:
        """Judge a release and, where private data entered, write it down. Raises NotPermitted, AuditFailed."""
        decision = self.decide(release)
        if decision.policies:
            self.note(release, decision)
        if not decision.allowed:
            raise self._denial(release, decision)
        if decision.policies and not decision.request and not isinstance(release, ShapeToCaller):
            self._noted[release] = decision.policies
        return decision

    def check_askable(self) -> None:
        """Refuse a request to which the owner of this node cannot say yes. Raises GetNotPermitted."""
        where = self._state.owner
        if owners_to_ask(self.client, self.entered) - {where}:
            raise GetNotPermitted(f"{where} cannot let you get what others own", where=where, mend=self._whom_to_ask())

    def permit_collection(self, standing: Standing) -> None:
        """Judge whether the client gets the value kept with a request of its own, and write it down.

        The policies are those of what had entered the room then; of this owner's data, as they are now.
        Raises NotPermitted, AuditFailed.
        """
        asked, state = standing.request, self._state
        release, now = ToCaller(asked.object), {offer.policy.name: offer.policy for offer in state.offers}
        policies = [
            now.get(policy.name, replace(policy, use=())) if policy.owner == state.owner else policy
            for policy in asked.policies
        ]
        approval = Approval(asked.id, state.owner, self.client, asked.room, asked.object)
        decision = judge(release, self.client, asked.room, policies, [approval])
        if standing.state is not State.APPROVED:
            note = f": {standing.note}" if standing.note else ""
            decision = Decision(False, f"the request {asked.id} is {standing.state}{note}", decision.policies)
        noted = replace(decision, request=asked.id)
        state.audit.note(self.client, asked.room, release, noted, self._ended)
        if not decision.allowed:
            raise GetNotPermitted(f"what you asked for may not leave: {decision.reason}", where=state.owner)

    def let_out(self, asked: bytes, release: Release, frames: Frames, last: int, query: tuple[str, ...] = ()) -> Frames:
        """Return what the caller gets of the room's answer to a message of the tag ``asked``.

        A release of a value has been permitted, and noted, when it was asked for.
        """
        tag, noted = b"", self._noted.pop(release, ())
        try:
            answer = wire.unpack(header(frames), RawAnswered).answer
            tag = peek_tag(answer)
            if tag == b"failure":
                return self._cut(asked, frames, last)
            if tag != _ANSWERS[asked]:
                raise MalformedMessage("the room gives no such answer", where=self._state.owner)
            if tag == b"done":
                if asked not in _DONE_AT_LEAST:
                    self.check_told()
                return wire.encode(Answered(last, Done()))
            if tag == b"found":
                return wire.encode(Answered(last, self._found(wire.unpack(answer, Found), query)))
            if tag == b"value":
                self._check_still(release, noted)
            elif self.entered:
                if answer != _RAN_FOR_NOTHING or not self._state.tells_failures(self.client):
                    self.permit(release)
                kind: type[Ran | Placed] = Ran if tag == b"ran" else Placed
                return wire.encode(Answered(last, wire.unpack(answer, kind)))
            return frames
        except MalformedMessage:
            return self.refusal(MalformedMessage("the room's answer cannot be read", where=self._state.owner), last)
        except SyftError as error:
            if tag == b"placed" and isinstance(error, NotPermitted):
                return wire.encode(Answered(last, Done()))
            return self.refusal(error, last)

    def _check_still(self, release: Release, noted: tuple[str, ...]) -> None:
        """Refuse what the ``noted`` policies permitted before more entered. Raises NotPermitted, AuditFailed."""
        decision = self.decide(release)
        if decision.allowed and decision.policies != noted:
            self.note(release, decision)
        if not decision.allowed or decision.request:  # what was approved by hand is another value
            refused = replace(decision, allowed=False, reason="more private data entered meanwhile")
            self.note(release, refused)
            raise self._denial(release, refused)

    def refusal(self, error: SyftError, last: int) -> Frames:
        """Return the answer that a message failed for a reason of the gate's own."""
        if isinstance(error, AuditFailed):
            _log.error("%s", error)
            error = AuditFailed("this node cannot write down what leaves it, so nothing does", where=self._state.owner)
        return failed(last, error)

    def _found(self, found: Found, query: tuple[str, ...]) -> Found:
        """Return what the client may see of what the owner offers and of what is in its room.

        Of the owner's data it sees what the gate knows. Where some of that has entered, the room's word
        on the client's own objects counts as a shape that depends on values.
        """
        with self._lock:
            offered = dict(self._offered)
        others = {entry[0]: entry for entry in found.objects if entry[0] not in offered}
        owners = [_listing(id, offer) for id, offer in offered.items() if _matches(id, offer, query)]
        if others and self.entered:
            decision = self.decide(ShapeToCaller())
            self.note(ShapeToCaller(), decision)
            if not decision.allowed:
                if not owners:
                    raise self._denial(ShapeToCaller(), decision)
                others.clear()
        return Found((*owners, *others.values()))

    def _cut(self, asked: bytes, frames: Frames, last: int) -> Frames:
        """Where private data entered, let out the code of an error only: torch's texts show values.

        The text is for a client whom every policy lets get results, as one more of these; not for its delegates.
        That a call failed tells something too, and many calls tell much. So a client who may see neither values
        nor shapes is told of so many failures, each of which the owner finds in the audit log; from then on
        what fails is answered as what does not, or refused as that is.
        """
        if not self.entered:
            return frames
        answered = wire.unpack(header(frames), RawAnswered)
        failure = wire.unpack(answered.answer, Failure)
        if self.room.ending is not None:
            return failed(last, self.room.ending)
        kind = BY_CODE.get(failure.code, SyftError)
        _log.warning("room %s of %s: %s: %.*r", self.name, self.client, kind.code, limits.MAX_LOGGED, failure.what)
        if not answered.delegate and not owners_to_ask(self.client, self.entered):
            self._note_failure(True, f"a call failed: {kind.code}, with its text")
            return frames
        sees_shapes = self.decide(ShapeToCaller())
        if not sees_shapes.allowed and not self._tells_failure(f"a call failed: {kind.code}"):
            if asked == b"run":
                self.permit(ShapeToCaller())
            if asked not in _DONE_AT_LEAST:
                raise self._untold()
            return wire.encode(Answered(last, Done()))
        error = kind(
            f"the room reports: {kind.code}",
            where=self._state.owner,
            mend="Private data is in your room, so only the owner's log has the details.",
            asked_at=failure.asked_at if sees_shapes.allowed and failure.asked_at <= last else 0,
        )
        return failed(last, error)

    def check_told(self) -> None:
        """Refuse what would tell that a call has not failed, where the client may not learn it. Raises NotPermitted."""
        if not self._hears_failures():
            raise self._untold()

    def _tells_failure(self, reason: str) -> bool:
        """Count and note a failure of a client who sees no shapes; tell whether it is told. Raises AuditFailed."""
        is_told = self._state.tells_failures(self.client, 1)
        self._note_failure(is_told, reason if is_told else f"too many failures: {reason}")
        return is_told

    def _hears_failures(self) -> bool:
        """Tell whether the client may learn that a call has not failed."""
        is_told = not self.entered or self._state.tells_failures(self.client)
        return is_told or self.decide(ShapeToCaller()).allowed

    def _untold(self) -> NotPermitted:
        """Return what is said, whether or not it failed, in place of an answer that is more than Done."""
        return NotPermitted(
            "too many of your calls failed near private data for you to be told more",
            where=self._state.owner,
            mend="The owner's log has what failed.",
        )

    def _tells_ending(self, death: Death) -> bool:
        """Tell whether the client hears why its room has ended; near private data that is one more failure."""
        if not self.entered:
            return True
        reason = f"the room ended: {death.code}"
        try:
            if not self.decide(ShapeToCaller()).allowed:
                return self._tells_failure(reason)
            self._note_failure(True, reason)
        except AuditFailed as error:
            _log.error("%s", error)
            return False
        return True

    def _note_failure(self, is_told: bool, reason: str) -> None:
        """Write down that something failed near private data. Raises AuditFailed."""
        self.write(Entry(datetime.now(UTC), self.client, "failure", is_told, reason, self.name, policies=self._data))

    def _denial(self, release: Release, decision: Decision) -> NotPermitted:
        where, reason = self._state.owner, decision.reason
        match release:
            case ToCaller(object=object):
                return GetNotPermitted(
                    f"object {object} may not leave: {reason}", where=where, mend=self._whom_to_ask()
                )
            case ToWorker(object=object, to=to):
                mend = "Ask the owner of the data to allow it in the node's config."
                return SendNotPermitted(f"object {object} may not go to {to}: {reason}", where=where, mend=mend)
            case ShapeToCaller():
                mend = "Use a form with a fixed shape, such as torch.where or multiplication by a mask."
                return NotPermitted(f"this shape may not be seen: {reason}", where=where, mend=mend)

    def _whom_to_ask(self) -> str:
        match sorted(owners_to_ask(self.client, self.entered)):
            case [owner] if owner != self._state.owner:
                return f"Ask {owner} to let you, at home: ptr.move({owner}).request(reason=...)."
            case [_, _, *_] as owners:
                return f"It would take a yes of each of {', '.join(owners)}: compute with their data in rooms apart."
        return "Ask the owner to let you: ptr.request(reason=...)."


def with_policies(frames: Frames, policies: Iterable[Policy]) -> Frames:
    """Mark an answer as made of data of these policies."""
    answered = wire.unpack(header(frames), RawAnswered)
    answered.policies = tuple(policies)
    return [msgspec.msgpack.encode(answered), *frames[1:]]


def _new_id() -> int:
    return secrets.randbits(62) | 1 << 62


def _listing(id: int, offer: Offer) -> tuple[int, Meta, tuple[str, ...], str]:
    return id, Meta.of(offer.value), offer.label.tags, offer.label.description


def _matches(id: int, offer: Offer, query: tuple[str, ...]) -> bool:
    return all(word == str(id) or offer.label.matches(word) for word in query)
