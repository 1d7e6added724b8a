"""Every key in Redis, named once: for Python, and for the scripts, whose text `scripts.py` fills them into."""

from __future__ import annotations

from enum import StrEnum

from rq.defaults import RQ_KEY_PREFIX as RQ


class Key(StrEnum):
    """A key, or, where it ends in ':' or '@', what stands before a name in one."""

    # RQ's
    JOB = f"{RQ}:job:"  # hash: a job's record
    QUEUES = f"{RQ}:queues"  # set: the keys of all queues
    QUEUE = f"{RQ}:queue:"  # list: jobs that wait
    LEASES = f"{RQ}:wip:"  # sorted set, by queue: JOB:EXECUTION by the end of its lease
    EXECUTION = f"{RQ}:execution:"  # hash, by JOB:EXECUTION
    EXECUTIONS = f"{RQ}:executions:"  # sorted set: a job's executions
    RESULTS = f"{RQ}:results:"  # stream: how a job's executions ended
    FINISHED = f"{RQ}:finished:"  # sorted sets, by queue: jobs by the end of their records
    FAILED = f"{RQ}:failed:"
    CANCELED = f"{RQ}:canceled:"
    RQ_WORKERS = f"{RQ}:workers"  # set: the keys of all workers
    RQ_WORKERS_OF = f"{RQ}:workers:"  # set: those of a queue
    RQ_WORKER = f"{RQ}:worker:"  # hash: what `rq info` shows of a worker
    SUSPENDED = f"{RQ}:suspended"  # there while `rq suspend` lets no worker take jobs

    # ours: jobs
    OPEN = "ldm:open"  # sorted set: every job that is queued or running
    OPEN_OF_MODEL = "ldm:open@"  # set: a model's
    OPEN_OF_OWNER = "ldm:open:"  # set: an owner's
    JOBS_OF_OWNER = "ldm:jobs:"  # sorted set: an owner's jobs by the time of their submission, while there are records
    OWNERS = "ldm:owners"  # set: who has such jobs
    IDEMPOTENCY = "ldm:idem:"  # hash, by OWNER:KEY: the job that such a request made, and the request's fingerprint
    RATE = "ldm:rate:"  # when an owner's jobs would end if each took its share of the rate's window (Unix s)
    RING = "ldm:ring:"  # list: the queues of a MODEL.PRIORITY that have jobs, in the order of their owners' turns
    DUE = "ldm:due"  # sorted set: queued jobs by when a worker must have taken them
    PARKED = "ldm:parked"  # set: jobs that wait for a worker of another version
    ENDED = "ldm:ended"  # capped list: when the last jobs ended, newest first
    ORPHANS = "ldm:litter"  # list: jobs that ended without a worker, with images to delete
    RESERVED = "ldm:reserved"  # bytes of Redis that the images of open jobs will take
    BLOB = "ldm:blob:"  # an image or a checkpoint
    PREVIEW = "ldm:preview:"  # a job's newest preview, a JPEG, empty until there is one; gone when no client looks
    SIGNING = "ldm:signing"  # the secret with which gateways sign URLs; never expires. Deleting it ends all signatures
    CHOICE = "ldm:choice:"  # the model that an owner has chosen by the web interfaces' API; expires
    WEBHOOKS = "ldm:webhooks"  # sorted set: hosts by when their next delivery is due (Unix s)
    WEBHOOKS_OF = "ldm:webhooks:"  # sorted set, by host: ended jobs by when their delivery is due, or its lease ends
    EVENTS = "ldm:events"  # capped stream: what happened to which job

    # ours: workers
    WORKERS = "ldm:workers"  # set: names of workers that may be alive
    CARDS = "ldm:worker:"  # a worker's model cards, as JSON; expires when its heartbeat stops
    TAKEN = "ldm:taken:"  # {MODEL: [rows, steps]} that a worker has taken since its start, as JSON; expires likewise
    WEIGHTS = "ldm:weights:"  # the digests and dtypes of a worker's models, as JSON; expires with its cards
    KNOWN_MODELS = "ldm:models"  # sorted set: {"id", "tasks"} of every model ever served, by when it was last (Unix s)
    COMMANDS = "ldm:commands:"  # list: jobs that a worker shall cancel
    WAKE_UPS = "ldm:bell:"  # list, by model: a token for every new job; idle workers block on it. A lost one costs 1 s
    CLOCK = "ldm:clock"  # when somebody last looked after the queues (Unix s)
    NONE = "ldm:none"  # never there

    def of(self, *names: str) -> str:
        """The key of what has these names."""
        return self + ":".join(names)
