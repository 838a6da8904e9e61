"""Opens the coordinator's socket and gathers the devices of a run: local ones or paired ones."""

import contextlib
import dataclasses
from collections.abc import Iterator

from coordinator.protocol.job import Job
from devices.specification import EmulatedDevice
from devices.this_machine import EMULATED, LOOPBACK, HeadStart
from edge_runtime.contract.errors import BadInputError, InfeasibleError, UsageError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.transport import (
    Address,
    PairedDevices,
    SecureContext,
    SecureRouter,
    home_directory,
    load_or_create_keypair,
)

from .local_devices import LocalDevices, LocalPlace, local_devices, this_machine_alone
from .profile_store import ProfileCache

CONTROL_PORT = 7700


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Names the devices that take part.

    Attributes:
        emulate: emulated devices to start here.
        devices: ids of paired devices, or ``("all",)``.
        listen: where paired devices find the coordinator, ``HOST:PORT``.
        reprofile: measure devices and links again, whatever is known of them.
        thorough: devices take seconds to measure themselves, not tenths of one.
        head_start: this machine's device where it has been started already.

    With neither ``emulate`` nor ``devices``, this machine alone takes part.
    """

    emulate: tuple[EmulatedDevice, ...] = ()
    devices: tuple[str, ...] = ()
    listen: str = f"*:{CONTROL_PORT}"
    reprofile: bool = False
    thorough: bool = False
    head_start: HeadStart | None = None

    def __post_init__(self) -> None:
        if self.emulate and self.devices:
            raise UsageError("--emulate and --devices exclude each other")
        twice = sorted({name for name in self.devices if self.devices.count(name) > 1})
        if twice:
            raise UsageError(f"--devices names {twice[0]} twice; name each device once")
        try:
            Address.parse(self.listen)
        except BadInputError as error:
            raise UsageError(f"--listen: {error}") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Holds the control socket that listens at ``address``, and the devices that take part.

    Attributes:
        public_keys: of all paired devices, or of all local ones.
        local: processes on this machine; None for devices elsewhere.
    """

    router: SecureRouter
    address: Address
    devices: tuple[DeviceId, ...]
    public_keys: dict[DeviceId, str]
    local: LocalDevices | None
    reprofile: bool = False


@contextlib.contextmanager
def open_host(cluster: Cluster, *, trains: bool = False) -> Iterator[Host]:
    """Listens, and starts local devices if that is what the cluster is.

    Args:
        cluster: which devices.
        trains: whether there is something to train.

    Raises:
        InfeasibleError: no device is paired, or a named one is not.
        StoppedError: a local device did not start.
    """
    home = home_directory()
    keypair = load_or_create_keypair(home / "coordinator.json")
    # Local devices come and go with a run: `--devices all` must not wait for them.
    paired = PairedDevices((home if cluster.devices else home / EMULATED) / "devices.json")
    with SecureContext() as context, contextlib.ExitStack() as stack:
        router = SecureRouter(context, keypair, domain="control")
        stack.callback(router.close)
        for device in paired:
            router.allow(device.device_id, device.public_key)
        local = None
        if cluster.devices:
            chosen = _paired(cluster.devices, paired)
            address = router.bind(Address.parse(cluster.listen))
        else:
            address = router.bind(Address(host=LOOPBACK, port=0))
            place = LocalPlace(
                keypair=keypair,
                router=router,
                control=address,
                paired=paired,
                home=home,
            )
            if cluster.emulate:
                local = stack.enter_context(local_devices(place, cluster.emulate))
            else:
                begun = cluster.head_start or stack.enter_context(HeadStart(home, trains=trains))
                local = stack.enter_context(this_machine_alone(place, context, begun))
            chosen = local.ids
        yield Host(
            router=router,
            address=address,
            devices=chosen,
            public_keys={device.device_id: device.public_key for device in paired},
            local=local,
            reprofile=cluster.reprofile,
        )


def profile_cache(host: Host, job: Job) -> ProfileCache:
    """Opens the store of a host's measurements."""
    places = {device: host.local.place_of(device) for device in host.devices} if host.local else {}
    return ProfileCache(home_directory(), job, places)


def _paired(names: tuple[str, ...], paired: PairedDevices) -> tuple[DeviceId, ...]:
    known = tuple(device.device_id for device in paired)
    if not known:
        raise InfeasibleError("no device is paired yet; run `pacplus pair`")
    if names == ("all",):
        return known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InfeasibleError(
            f"{unknown[0]!r} is not paired; paired are {', '.join(known)}; "
            "run `pacplus pair` to add it"
        )
    return tuple(DeviceId(name) for name in names)
