"""Delivers what webhooks are to be told, in the background of a gateway. All gateways of a Redis share the work."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress
from typing import Any

from ldm_core.errors import RequestError
from service.access.links import Links
from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.broker.end_task import end_task
from service.broker.webhooks import DONE, Delivery
from service.metrics import GatewayMetrics
from service.settings import GatewaySettings
from service.webhooks.message import message_of
from service.webhooks.sender import NotTaken, Sender
from worker.jobs import TERMINAL, JobView
from worker.store.records import UnreadableRecord

log = logging.getLogger(__name__)

LEASE_S = 20  # of a delivery; an attempt takes half of it at most
AT_ONCE = 32  # attempts of a gateway
AT_ONE_HOST = 4  # of these: who hangs delays nobody else
LOOK_S = 5.0  # between two looks for what another gateway, which is gone by now, was to send later
CLOSE_S = 2.0  # in which what is being sent may come to its end
JITTER = 0.1


class GivenUp(Exception):
    """There will be no further attempt, in words for the log."""


class Deliveries:
    """One per gateway process."""

    def __init__(self, broker: Broker, metrics: GatewayMetrics, settings: GatewaySettings, *, keys: bool) -> None:
        """`keys`: whether callers need one, so that addresses of images are signed."""
        self._broker, self._metrics, self._settings, self._keys = broker, metrics, settings, keys
        self._sender, self._waits_s = Sender(settings.webhook_rules), settings.webhook_waits_s
        self._running: dict[asyncio.Task[None], str] = {}  # attempts, and their hosts
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to deliver; Redis may come later."""
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Ends; what is cut short here is sent again by another gateway when its lease is over."""
        await end_task(self._task)
        if self._running:
            await asyncio.wait([*self._running], timeout=CLOSE_S)
        for task in [*self._running]:
            await end_task(task)

    async def _run(self) -> None:
        due = self._broker.webhooks.due
        while True:
            due.clear()
            wait_s = LOOK_S
            try:
                wait_s = await self._begin()
            except BrokerUnavailable:
                pass  # requests say so
            except Exception:
                log.exception("webhooks could not be looked after; the next try is in %g s", LOOK_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await due.wait()

    async def _begin(self) -> float:
        """Begins as many attempts as there is room for; how many seconds there is nothing else to do."""
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return LOOK_S  # who ends sets `due`
        running = Counter(self._running.values())
        claimed, later_s = await self._broker.webhooks.claim(
            lease_s=LEASE_S, room=room, each=AT_ONE_HOST, running=running
        )
        for delivery in claimed:
            task = asyncio.create_task(self._deliver(delivery), name=f"webhook of {delivery.job_id}")
            self._running[task] = delivery.host
            task.add_done_callback(self._ended)
        return LOOK_S if later_s is None else min(later_s, LOOK_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._broker.webhooks.due.set()  # there is room
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a webhook could not be delivered; it is tried again in %d s", LEASE_S, exc_info=error)

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt. While Redis is away nothing is said of it, and another one begins when the lease is over."""
        told: dict[str, Any] = {"job_id": delivery.job_id}
        with suppress(BrokerUnavailable):
            try:
                outcome, wait_s = await self._attempt(delivery, told)
            except GivenUp as error:
                log.warning("webhook of %s given up: %s", delivery.host, error, extra=told)
                outcome, wait_s = "given_up", DONE
            await self._broker.webhooks.settle(delivery, wait_s)
            self._metrics.webhook(outcome)

    async def _attempt(self, delivery: Delivery, told: dict[str, Any]) -> tuple[str, float]:
        """What became of it, and the seconds until the next one. `told` goes with each log line. Raises GivenUp."""
        view = await self._job(delivery)
        told["request_id"] = view.payload.request_id
        try:
            await self._send(view)
        except NotTaken as error:
            wait_s = self._wait_after(delivery, view, await self._broker.now(), error)
            log.info("webhook of %s not taken: %s; again in %.1f s", delivery.host, error, wait_s, extra=told)
            return "retried", wait_s
        log.info("webhook of %s taken", delivery.host, extra=told)
        return "delivered", DONE

    async def _job(self, delivery: Delivery) -> JobView:
        """Raises GivenUp, also after attempts that ended without a word: what ended a gateway shall not end all."""
        if delivery.attempt > len(self._waits_s) + 1:
            raise GivenUp(f"no attempt before the {delivery.attempt}th came to its end")
        try:
            view = await self._broker.job(delivery.job_id) if delivery.attempt else None
        except UnreadableRecord as error:
            raise GivenUp(str(error)) from error
        if view is None or view.status not in TERMINAL:
            raise GivenUp("the job has expired, or was queued again")
        return view

    async def _send(self, view: JobView) -> None:
        """Raises NotTaken."""
        secrets, now = self._settings.webhook_secrets, await self._broker.now()
        message = message_of(view, await self._links(), secrets, now)
        try:
            await self._sender.send(view.payload.webhook, message)
        except RequestError as error:  # of a gateway that had other settings; there may still be some
            raise NotTaken(str(error)) from error

    async def _links(self) -> Links:
        ttl_s = self._settings.signed_url_ttl_s
        return Links(self._settings.root_path, await self._broker.url_signer(ttl_s) if self._keys else None)

    def _wait_after(self, delivery: Delivery, view: JobView, now: float, error: NotTaken) -> float:
        """Seconds until the next attempt. Raises GivenUp where there is none."""
        if error.for_good or delivery.attempt > len(self._waits_s):
            raise GivenUp(f"{error}, at attempt {delivery.attempt}")
        wait_s = self._waits_s[delivery.attempt - 1] * random.uniform(1, 1 + JITTER)
        if view.expires_at is not None and now + wait_s >= view.expires_at:
            raise GivenUp(f"{error}, at attempt {delivery.attempt}, and the job expires before the next")
        return wait_s
