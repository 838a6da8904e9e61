"""Runs one session on a cluster's devices, whatever it is for."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from coordinator.cluster.host import Cluster, Host, open_host, profile_cache
from coordinator.cluster.kept_cuts import KeptCuts
from coordinator.cluster.observer import Observer
from coordinator.cluster.pending_forgets import reminder
from coordinator.cluster.server import Server
from coordinator.planner import Problem, make_plan
from coordinator.planner.plan import planner
from coordinator.protocol.actions import Kept, Record
from coordinator.protocol.job import Continuation, Job
from coordinator.protocol.record import SessionRecord
from coordinator.session.machine import Session
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.contract.plan import Plan
from edge_runtime.transport import home_directory
from export.partition.stages import Bundle

from .inputs import Prepared

SHUTDOWN_GRACE_SECONDS = 3.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A session that ended well: its plan and what the devices did.

    ``devices`` has the catalogue name of each, empty for one that is not emulated; emulated
    ones ran ``dilation`` times slower than in truth.
    """

    plan: Plan
    record: SessionRecord
    devices: dict[DeviceId, str]
    dilation: float


def run_session(
    cluster: Cluster,
    prepared: Prepared,
    observer: Observer,
    *,
    cache_dtype: CacheDtype,
    decide: Callable[[Problem], Plan] = make_plan,
    is_given: bool = False,
    continuation: Continuation | None = None,
    checks_memory: bool = True,
    record: Callable[[Record, SessionRecord], None] = lambda _event, _record: None,
    save: Callable[[Kept, SessionRecord], None] = lambda _action, _record: None,
    **job: Any,
) -> Finished:
    """Gathers the cluster's devices and runs a session on them to its end.

    Args:
        cluster: which devices compute.
        prepared: model, adapter and samples.
        observer: is told of progress.
        cache_dtype: how activations are stored.
        decide: makes the plan once the devices are measured.
        is_given: it does so whatever they have measured.
        continuation: prompts to continue; nothing is cached then.
        checks_memory: refuse lines that the devices cannot hold before these are measured.
        record: keeps an event.
        save: keeps a checkpoint, or what an epoch was found to be worth.
        job: the other fields of the :class:`Job`.

    Raises:
        UserError: the session failed.
    """
    work: dict[str, Any] = {
        "manifest": prepared.bundle.manifest,
        "config": prepared.config,
        "options": prepared.options,
        "tables": prepared.tables,
        "cache_dtype": cache_dtype,
    }
    planning = planner(**work, caches=continuation is None, decide=decide, is_given=is_given)
    trains = prepared.options.epochs > 0 and not job.get("only_plan", False)
    with open_host(cluster, trains=trains) as host:
        local = host.local
        session = Session(
            Job(
                **work,
                **job,
                devices=host.devices,
                make_plan=planning.make_plan,
                worth_measuring=planning.worth_measuring,
                judge=planning.judge,
                check_devices=planning.check_devices if checks_memory else lambda _: None,
                local=local is not None,
                measures_thoroughly=cluster.thorough or cluster.reprofile,
                session=secrets.token_hex(8),
                continuation=continuation,
            )
        )
        address = {"address": host.address.endpoint}
        record(Record(event="coordinator_listening", fields=address), session.record)
        _serve(host, prepared.bundle, session, observer, record, save)
        return Finished(
            plan=session.plan,
            record=session.record,
            devices={name: local.profile_of(name) if local else "" for name in host.devices},
            dilation=local.dilation if local else 1.0,
        )


def _serve(
    host: Host,
    bundle: Bundle,
    session: Session,
    observer: Observer,
    record: Callable[[Record, SessionRecord], None],
    save: Callable[[Kept, SessionRecord], None],
) -> None:
    """Runs a session on a host's devices, reusing and keeping their profiles."""
    observer.started(session, host)
    profiles = profile_cache(host, session.job)
    if not host.reprofile:
        session.reuse(profiles.read(host.devices))
    if host.local is not None and not session.job.measures_thoroughly:
        session.give_links(host.local.links.between())

    def on_record(event: Record) -> None:
        record(event, session.record)
        if event.event == "plan_made":  # kept at once, whatever becomes of this session
            profiles.write(session.measured)
        observer.event(event)

    server = Server(
        host.router,
        bundle,
        public_keys=host.public_keys,
        record=on_record,
        save=lambda action: save(action, session.record),
        reroute=host.local.links.reroute if host.local else lambda _device, peers: peers,
        reminder=None if host.local else reminder(host.devices),
        kept=KeptCuts(home_directory(), bundle.manifest.digest),
    )
    try:
        server.run(
            session,
            ended=host.local.ended if host.local else list,
            watch=observer.tick,
        )
    finally:
        profiles.write(session.measured)
        server.end(host.devices)
        if host.local is not None:
            host.local.wait(SHUTDOWN_GRACE_SECONDS)
        observer.stopped()
