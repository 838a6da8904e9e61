"""ONNX Runtime, and nothing else: the one module that imports it.

Weights stay in their files and are mapped; the graph itself is small. Spinning is off on
devices, since an idle phone must not burn its battery waiting for work.
"""

import dataclasses
import functools
import importlib.resources
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_runtime import __version__
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import MissingExtraError, RemoteError, UnresumableError, UserError

from .kernel_choice import SaturatingKernel, kept_choice

try:
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
except ImportError:  # pragma: no cover - exercised in an environment without the extra
    raise MissingExtraError("onnxruntime", "edge") from None

logger = logging.getLogger(__name__)

Kernel = Literal["fast", "paired", "exact"]
"""How int8 weights are multiplied: as they are; limited, see :mod:`.paired_weights`; as uint8."""

PROBE = "matmul_integer_probe.onnx"
PROBE_INPUTS = 128
PROBE_ZERO_POINT = 128
PAIRED_PROBE, UINT8_PROBE = "paired_probe.onnx", "uint8_probe.onnx"
PAIRED_PROBE_ROWS, PAIRED_PROBE_INPUTS = 256, 512
PAIRED_PROBE_RUNS = 9
PAIRED_WORTH = 0.9
"""Most time of limited weights, in that of the exact form, for which their error is worth it."""

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class GraphSession:
    """A graph, loaded and ready to run: of a stage, or of an adapter.

    Attributes:
        input_names: names of the graph's inputs.
        output_names: names of its outputs; of a stage, the hidden states in block order.
        frugal: what a run takes is given back after it; slower.
    """

    def __init__(
        self, graph: Path | bytes, threads: int, name: str = "", *, spins: bool = False
    ) -> None:
        """Loads ``graph``; the weight files of one in a file lie in the same folder.

        Args:
            graph: a file, or a whole model with its weights.
            threads: that it computes with.
            name: of the graph in errors; by default the file's.
            spins: threads that have nothing to do look out for work for some milliseconds before
                they sleep. What takes milliseconds waits half as long (a sentence in MiniLM with
                two threads: 2.8 instead of 3.9 ms).

        Raises:
            UnresumableError: ONNX Runtime refuses the graph or its weights.
        """
        if isinstance(graph, Path):
            name = name or graph.name
        try:
            self._session = ort.InferenceSession(
                str(graph) if isinstance(graph, Path) else graph,
                _options(threads, spins=spins),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise UnresumableError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        self.frugal = False
        self.input_names = tuple(item.name for item in self._session.get_inputs())
        self.output_names = tuple(item.name for item in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the graph and returns the asked ``outputs`` in order.

        Raises:
            RemoteError: ``feeds`` are of another shape than the graph's, or token ids beyond its
                vocabulary; of a stage, they came from another device.
        """
        options = _shrinking() if self.frugal else None
        try:
            results: list[Array] = self._session.run(list(outputs), dict(feeds), options)
        except InvalidArgument as error:
            raise RemoteError(f"ONNX Runtime refuses a graph's inputs: {error}") from error
        return results

    def shrink(self) -> None:
        """Gives back what runs have taken, and what they left there, by a smallest run."""
        feeds: dict[str, Array] = {}
        for item in self._session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in item.shape]
            feeds[item.name] = np.ones(shape, _DTYPES[item.type])
        self._session.run(None, feeds, _shrinking())


def _shrinking() -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _options(threads: int, *, spins: bool = False) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Shapes change with every micro-batch, and a pattern would be planned for each anew. The
    # arena is worth its memory: without it, page faults add a quarter to MiniLM's fill.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def matmul_integer_is_exact() -> bool:
    """True if this processor's product of uint8 and int8 equals int64 arithmetic.

    Some x86 kernels (no VNNI) add pairs of products in saturating 16 bits. The probe has
    the very operator of the int8 backbones, with weights at both ends of their range.
    """
    rows = _probe_rows(17, PROBE_INPUTS)
    product, weights = _probe(PROBE).run({"a": rows}, ["y", "w"])
    return _equal(product, rows, weights)


def paired_weights_are_exact() -> bool:
    """True if limited weights give what int64 arithmetic does here."""
    paired, rows = _probe(PAIRED_PROBE), _probe_rows(PAIRED_PROBE_ROWS, PAIRED_PROBE_INPUTS)
    for few in (rows[:1], rows[1:2], rows[:17]):  # a single row has a kernel of its own
        product, pattern = paired.run({"a": few}, ["y", "w"])
        repeats = few.shape[1] // len(pattern)
        if not _equal(product, few, np.tile(pattern, (repeats, repeats))):
            return False
    return True


def paired_weights_pay() -> bool:
    """True if limited weights take less time than the exact form.

    A fifth of a second at most. By the instructions of ONNX Runtime's kernels they take half the
    time on some processors without VNNI, and the same on others.
    """
    rows = _probe_rows(PAIRED_PROBE_ROWS, PAIRED_PROBE_INPUTS)
    paired, uint8 = _probe(PAIRED_PROBE), _probe(UINT8_PROBE)
    seconds: dict[GraphSession, float] = {paired: np.inf, uint8: np.inf}
    for _ in range(PAIRED_PROBE_RUNS):
        for probe in seconds:
            began = time.perf_counter()
            probe.run({"a": rows}, ["y"])
            seconds[probe] = min(seconds[probe], time.perf_counter() - began)
    return seconds[paired] <= PAIRED_WORTH * seconds[uint8]


def _probe(name: str) -> GraphSession:
    data = importlib.resources.files(__package__).joinpath(name).read_bytes()
    return GraphSession(data, threads=1, name=name)


def _probe_rows(count: int, inputs: int) -> Array:
    """Both extremes, then random ones."""
    extremes = np.array([[0], [255]], np.uint8).repeat(inputs, axis=1)
    others = np.random.default_rng(0).integers(0, 256, (count - 2, inputs))
    return np.concatenate([extremes, others.astype(np.uint8)])


def _equal(product: Array, rows: Array, weights: Array) -> bool:
    exact = (rows.astype(np.float64) - PROBE_ZERO_POINT) @ weights.astype(np.float64)
    return bool((product == exact).all())  # all below 2^24


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """Runtime and kernel, which decide the last bits of a result on this device."""

    runtime: str
    kernel: Kernel

    def __str__(self) -> str:
        return f"{self.runtime}/{self.kernel}"


_choice_folder: Callable[[], Path] | None = None


def keep_choice_in(folder: Callable[[], Path]) -> None:
    """Has :func:`numerics` keep there what it chooses by its clock; asked only where it does."""
    global _choice_folder  # as what numerics() caches, one a process
    _choice_folder = folder


@functools.cache
def numerics() -> Numerics:
    """Tries the integer kernels, once a process; see :func:`matmul_integer_is_exact`."""
    kernel: Kernel = "fast"
    if not matmul_integer_is_exact():
        kernel = _kept_kernel() if paired_weights_are_exact() else "exact"
        logger.info("uint8 x int8 saturates on this processor; using the %s form", kernel)
    version = ".".join(ort.__version__.split(".")[:2])
    return Numerics(runtime=f"ort-{version}", kernel=kernel)


def _kept_kernel() -> SaturatingKernel:
    def faster() -> SaturatingKernel:
        return "paired" if paired_weights_pay() else "exact"

    try:
        folder = _choice_folder() if _choice_folder is not None else None
    except UserError:  # no place that this user may write to
        folder = None
    if folder is None:
        return faster()
    software = f"pacplus {__version__}, onnxruntime {ort.__version__}"
    return kept_choice(folder, software, faster)
