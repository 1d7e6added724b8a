"""The scripts against a model of them: whatever is called in whatever order, each job is in one place and ends once."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from tests.worker.processes import payload
from tests.worker.scripts_model import CRASH, ENDED, KILL, MAX_ROWS, OWNERS, SPARE, Job, Jobs, queues_of
from worker.jobs import PRIORITIES, Priority, queue_name
from worker.leasing.heartbeat import revoke
from worker.store import scripts
from worker.store.keys import Key
from worker.store.records import fields_of, new_record, result_fields

pytestmark = pytest.mark.slow

LIMIT = 6
LEASE_S = 60
HOST = "hooks.example:8443"
WORKERS = ("w0", "w1")
PICK = st.integers(0, 1000)


# named, because hypothesis reads the source of a lambda


def any_job(machine: Machine) -> bool:
    return bool(machine.jobs)


def any_waiting(machine: Machine) -> bool:
    return any(machine.lists.values())


def any_held(machine: Machine) -> bool:
    return any(machine.believed.values())


def any_started(machine: Machine) -> bool:
    return any(job.status == "started" for job in machine.jobs.values())


def may_park(machine: Machine) -> bool:
    """One at a time: several would come back in any order."""
    return any_held(machine) and not any(job.parked for job in machine.jobs.values())


class Machine(RuleBasedStateMachine):
    """Two workers that may be wrong about what they hold, clients, and time that ends leases."""

    redis: Any  # hypothesis makes a model for each example, without arguments

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.model = Jobs()
        self.number = count()  # for names: random ones would come out of Redis' sets in another order each time
        self.jobs, self.lists = self.model.jobs, self.model.lists
        self.believed: dict[str, list[tuple[str, str]]] = {worker: [] for worker in WORKERS}  # (job, execution)

    # clients

    @rule(
        priority=st.sampled_from(PRIORITIES), owner=st.sampled_from(OWNERS), guided=st.booleans(), told=st.booleans()
    )  # fmt: skip
    def submit(self, priority: Priority, owner: str, guided: bool, told: bool) -> None:
        wanted = payload(
            id=f"job-{next(self.number)}", priority=priority, owner=owner, guidance_scale=3.0 if guided else 1.0,
            webhook=f"https://{HOST}/" if told else "",
        )  # fmt: skip
        job = Job(wanted.id, queue_name("toy", priority, owner), 2 if guided else 1, webhook=told)
        record = new_record(wanted, timeout_s=60, result_ttl_s=600, wait_s=3600)
        full = self.model.full(owner, LIMIT)
        for expected in (b"full" if full else b"queued", b"full" if full else b"duplicate"):  # the reply may get lost
            reply = scripts.enqueue.run(
                self.redis, record["data"], id=job.id, queue=job.queue, limit=LIMIT, owner=owner, most=0, rate=0,
                window=60, idem="", print="", remember=60, free=-1, bytes=0, record=fields_of(record),
            )  # fmt: skip
            assert reply[0] == expected
        if not full:
            self.model.submit(job)

    @precondition(any_job)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job = list(self.jobs.values())[pick % len(self.jobs)]
        assert scripts.cancel.run(self.redis, id=job.id) == job.status.encode()
        if job.status == "queued":
            if job.id in self.lists[job.queue]:
                self.lists[job.queue].remove(job.id)
            job.parked = False
            job.status = "canceled"
        job.cancelled = job.cancelled or job.status == "started"

    # workers

    @precondition(any_waiting)
    @rule(worker=st.sampled_from(WORKERS), room=st.integers(-4, 8), turn=st.integers(0, 7), newer=st.booleans())
    def admit(self, worker: str, room: int, turn: int, newer: bool) -> None:
        held = [self.jobs[job_id] for job_id, _ in self.believed[worker]]
        if newer:
            self.model.unpark()
        reads = "newer" if newer else "here"
        rows = {
            owner: [sum(job.rows for job in held if job.queue == of) for of in queues_of(owner)]
            for owner in {job.owner for job in held}
        }
        taken, waits = scripts.admit.run(
            self.redis, worker=worker, token=f"token-{next(self.number)}", lease=LEASE_S, room=room, turn=turn,
            format=reads, held=len(held), max_rows=MAX_ROWS, spare=SPARE, models=["toy"], rows=rows,
        )  # fmt: skip
        assert ([reply[0].decode() for reply in taken], bool(waits)) == self.model.taken(room, turn, held)
        for reply in taken:
            job = self.jobs[reply[0].decode()]
            job.worker, job.execution = worker, reply[2].decode()
            self.believed[worker].append((job.id, job.execution))

    @precondition(any_held)
    @rule(worker=st.sampled_from(WORKERS), beat=st.booleans())
    def hear(self, worker: str, beat: bool) -> None:
        """Progress and beat tell a worker the same: what was cancelled, and what is no longer its own."""
        held = self.believed[worker]
        if beat:
            reply = scripts.beat.run(self.redis, lease=LEASE_S, held=held)
        else:
            reply = scripts.progress.run(self.redis, steps=[(*pair, 1) for pair in held])
        cancel = [pair[0] for pair in held if self.model.owns(*pair) and self.jobs[pair[0]].cancelled]
        lost = [pair for pair in held if not self.model.owns(*pair) and not self.model.ended_by(*pair)]
        assert [[name.decode() for name in part] for part in reply[:2]] == [cancel, [":".join(pair) for pair in lost]]
        self.believed[worker] = [pair for pair in held if pair not in lost]

    @precondition(any_held)
    @rule(worker=st.sampled_from(WORKERS), pick=PICK, further=st.integers(0, 5))
    def save(self, worker: str, pick: int, further: int) -> None:
        if not (held := self.believed[worker]):
            return
        job_id, execution = held[pick % len(held)]
        job, owns = self.jobs[job_id], self.model.owns(job_id, execution)
        assert scripts.saved.run(self.redis, id=job_id, exe=execution, step=job.saved + further) == owns
        job.saved += further if owns else 0

    @precondition(any_held)
    @rule(worker=st.sampled_from(WORKERS), pick=PICK, outcome=st.sampled_from(["finished", "failed", "flaky"]))
    def commit(self, worker: str, pick: int, outcome: str) -> None:
        if not (held := self.believed[worker]):
            return
        job_id, execution = held[pick % len(held)]
        job, expected = self.jobs[job_id], "lost"
        if self.model.owns(job_id, execution):
            expected = self.model.end(job, "canceled" if job.cancelled else outcome)
        elif self.model.ended_by(job_id, execution):
            expected = job.status
        assert self.committed(worker, job_id, execution, outcome) == expected
        again = "lost" if expected == "queued" else expected
        assert self.committed(worker, job_id, execution, outcome) == again  # its reply may have been lost
        held.remove((job_id, execution))

    def committed(self, worker: str, job_id: str, execution: str, outcome: str) -> str:
        status, error = ("finished", None) if outcome == "finished" else ("failed", "went wrong")
        result = result_fields(job_id, [], error, worker, execution)
        became = scripts.commit.run(
            self.redis, worker=worker, id=job_id, exe=execution, status=status, retry=outcome == "flaky", seconds=0.1,
            images="[]", problem="{}", warnings="[]", result=result,
        )  # fmt: skip
        return str(became.decode())

    @precondition(may_park)
    @rule(worker=st.sampled_from(WORKERS))
    def park(self, worker: str) -> None:
        if not (held := self.believed[worker]):
            return
        job_id, execution = held.pop()
        job, owns = self.jobs[job_id], self.model.owns(job_id, execution)
        parked = scripts.park.run(self.redis, id=job_id, exe=execution, format="here")
        assert parked == (owns and not job.cancelled)
        if owns:
            self.model.park(job)

    @precondition(any_held)
    @rule(worker=st.sampled_from(WORKERS))
    def drain(self, worker: str) -> None:
        held = self.believed[worker]
        mine = [self.jobs[job] for job, execution in held if self.model.owns(job, execution)]
        assert scripts.requeue.run(self.redis, held=held) == len(mine)
        for job in reversed(mine):
            self.model.end(job, "canceled") if job.cancelled else self.model.to_front(job)
        self.believed[worker] = []

    # what befalls them

    @precondition(any_held)
    @rule(worker=st.sampled_from(WORKERS), dead=st.booleans(), crashed=st.booleans())
    def revoke(self, worker: str, dead: bool, crashed: bool) -> None:
        """Of one that is dead, or that comes back and does not know."""
        held = [job for job in self.jobs.values() if job.status == "started" and job.worker == worker]
        assert revoke(self.redis, worker, crashed=crashed) == len(held)
        self.given_back(held, CRASH if crashed else KILL)
        if dead:
            self.believed[worker] = []

    @precondition(any_started)
    @rule(pick=PICK)
    def expire(self, pick: int) -> None:
        started = [job for job in self.jobs.values() if job.status == "started"]
        job = started[pick % len(started)]
        self.redis.zadd(f"rq:wip:{job.queue}", {f"{job.id}:{job.execution}": 1})
        assert scripts.maintain.run(self.redis, problem="{}", unlisted=1000, lease=LEASE_S) == [1, 0]
        assert scripts.maintain.run(self.redis, problem="{}", unlisted=0, lease=LEASE_S) == [0, 0]
        self.given_back([job], KILL)

    def given_back(self, jobs: list[Job], cost: int) -> None:
        """To the front, in whatever order: that of a set."""
        for job in jobs:
            self.model.lose(job, cost)
        for base, ring in self.model.rings.items():
            queues = [queue.decode() for queue in self.redis.lrange(Key.RING.of(base), 0, -1)]
            assert sorted(queues) == sorted(ring)
            self.model.rings[base] = queues
        for queue, expected in self.lists.items():
            ids = [job_id.decode() for job_id in self.redis.lrange(f"rq:queue:{queue}", 0, -1)]
            fresh = sum(job.queue == queue and job.status == "queued" for job in jobs)
            assert ids[fresh:] == expected[fresh:]
            assert sorted(ids) == sorted(expected)
            self.lists[queue] = ids

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        redis = self.redis
        for queue, ids in self.lists.items():
            assert [job_id.decode() for job_id in redis.lrange(f"rq:queue:{queue}", 0, -1)] == ids
            started = {f"{j.id}:{j.execution}" for j in self.jobs.values() if (j.queue, j.status) == (queue, "started")}
            assert {both.decode() for both in redis.zrange(f"rq:wip:{queue}", 0, -1)} == started
            for status in ENDED:
                here = {job.id for job in self.jobs.values() if (job.queue, job.status) == (queue, status)}
                assert {job_id.decode() for job_id in redis.zrange(f"rq:{status}:{queue}", 0, -1)} == here
        assert {job_id.decode() for job_id in redis.zrange(Key.OPEN, 0, -1)} == self.model.open()
        assert {job_id.decode() for job_id in redis.smembers("ldm:open@toy")} == self.model.open()
        waiting = {job.id for job in self.jobs.values() if job.status == "queued"}
        assert waiting <= {job_id.decode() for job_id in redis.zrange("ldm:due", 0, -1)} <= self.model.open()
        parked = {job.id for job in self.jobs.values() if job.parked}
        assert {job_id.decode() for job_id in redis.smembers("ldm:parked")} == parked

    @invariant()
    def of_every_job_that_has_ended_its_webhook_is_due(self) -> None:
        ended = {job.id for job in self.jobs.values() if job.status in ENDED and job.webhook}
        assert {job_id.decode() for job_id in self.redis.zrange(Key.WEBHOOKS_OF.of(HOST), 0, -1)} == ended
        assert self.redis.zrange(Key.WEBHOOKS, 0, -1) == ([HOST.encode()] if ended else [])

    @invariant()
    def the_records_agree(self) -> None:
        for job in self.jobs.values():
            key = f"rq:job:{job.id}"
            assert self.redis.hmget(key, "status", "retries_left") == [job.status.encode(), str(job.retries).encode()]
            assert (self.redis.ttl(key) > 0) == (job.status in ENDED)
            results = [fields[b"type"] for _, fields in self.redis.xrange(f"rq:results:{job.id}")]
            assert results.count(b"1") == (job.status == "finished")


def test_the_scripts_do_what_their_model_does(redis: Redis) -> None:
    Machine.redis = redis
    run_state_machine_as_test(
        Machine,
        settings=settings(
            phases=(Phase.generate,), max_examples=60, stateful_step_count=40, deadline=None, derandomize=True,
            database=None, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
