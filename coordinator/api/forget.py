"""Has devices delete what they keep: :func:`forget`."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from coordinator.cluster.forget import DeviceForgot
from coordinator.cluster.forget import forget as run_forgetting
from coordinator.cluster.host import CONTROL_PORT
from coordinator.cluster.stage_files import files_for_devices
from coordinator.runs.run_folder import ADAPTER_GRAPH, RunFolder
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import Forget
from export.partition.stages import open_bundle

WAIT_SECONDS = 10.0


def forget(
    run: Path | None = None,
    *,
    everything: bool = False,
    bundle: Path | None = None,
    listen: str = f"*:{CONTROL_PORT}",
    wait_seconds: float = WAIT_SECONDS,
    waiting_for: Callable[[str], None] = lambda _devices: None,
) -> list[DeviceForgot]:
    """Deletes caches and weights on every device of this machine and every paired one.

    Devices that do not join in time are told by the next command that they join. The run's
    folder and the bundle stay.

    Args:
        run: folder of a run, whose bundle is forgotten, for all runs with it; and its adapter.
        everything: instead of ``run``, all that the devices keep, of whichever coordinator.
        bundle: where the run's bundle is now, if it has moved.
        listen: where paired devices find this coordinator, ``HOST:PORT``.
        wait_seconds: how long paired devices may take to join.
        waiting_for: is told which have not answered yet.

    Raises:
        UsageError: both ``run`` and ``everything`` are given, or neither.
        BadInputError: the run or its bundle cannot be read.
    """
    if everything is (run is not None):
        raise UsageError("give either the folder of a run or --all")
    request = Forget(everything=True) if run is None else _request_of(run, bundle)
    return run_forgetting(
        request, listen=listen, wait_seconds=wait_seconds, waiting_for=waiting_for
    )


def _request_of(run: Path, moved_to: Path | None) -> Forget:
    folder = RunFolder(run)
    settings = folder.settings()
    path = moved_to or Path(settings.bundle)
    try:
        manifest = open_bundle(path).manifest
    except BadInputError as error:
        raise BadInputError(f"{error}; say with --bundle where it is, or use --all") from None
    if manifest.digest != settings.bundle_digest:
        raise BadInputError(
            f"{path}: is not the bundle that {run} was started with; "
            "give the right one with --bundle"
        )
    files = files_for_devices(manifest)
    return Forget(backbone_digest=manifest.backbone_digest, files=(*files, *_adapter(folder)))


def _adapter(folder: RunFolder) -> tuple[FileSpec, ...]:
    """The file of a finished run's adapter, which devices that answered with it have."""
    if not (folder.path / "adapter").is_dir():
        return ()
    _, graph = folder.read_adapter_graph()
    digest = Sha256(hashlib.sha256(graph).hexdigest())
    return (FileSpec(path=ADAPTER_GRAPH, bytes=len(graph), sha256=digest),)
