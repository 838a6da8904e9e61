"""A trained adapter as ``adapter.onnx``: evaluation and use without PyTorch."""

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.messages import Array
from edge_runtime.inference.session import GraphSession
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED

ADAPTER_GRAPH = "adapter.onnx"


class AdapterSession:
    """Answers with ONNX Runtime as :class:`edge_runtime.parallel_adapters.Predictor` does."""

    def __init__(
        self, graph: bytes, config: AdapterConfig, head: FrozenHead | None = None, threads: int = 1
    ) -> None:
        """Loads the bytes of ``adapter.onnx``; ``head`` is a language model's frozen head.

        Raises:
            UnresumableError: no ONNX model, or not of an adapter of that shape.
            ValueError: a language model without the head that fits it.
        """
        self._config, self._head = config, head
        self._graph = GraphSession(graph, threads, ADAPTER_GRAPH)
        inputs, output = _signature(config)
        if (set(self._graph.input_names), self._graph.output_names) != (inputs, (output,)):
            raise UnresumableError(f"{ADAPTER_GRAPH}: is not of the adapter that is configured")
        expected = (config.num_outputs, config.hidden_size)
        if config.generative and (head is None or (head.vocabulary, head.hidden_size) != expected):
            raise ValueError(f"an adapter for {config.task} needs a head of (V, d) = {expected}")

    def outputs(self, batch: Batch) -> Array:
        """As :meth:`edge_runtime.parallel_adapters.Predictor.outputs`."""
        if (batch.targets.ndim == 2) != self._config.generative:
            raise ValueError(
                f"targets of shape {batch.targets.shape} are not of {self._config.task}"
            )
        if self._head is not None and self._config.generative:
            return self._language_outputs(batch, self._head)
        if not batch.size:
            wide = self._config.task == "regression"
            return np.zeros((0, self._config.num_outputs), np.float64 if wide else np.float32)
        return self._run(batch)

    def last_features(self, batch: Batch) -> Array:
        """The head's input of each sample's last (decoder) token, (B, d) float32.

        ``batch.targets`` are not read.
        """
        if not self._config.generative:
            raise ValueError(f"an adapter for {self._config.task} makes no features")
        if not batch.size:
            return np.zeros((0, self._config.hidden_size), np.float32)
        last: Array = self._run(batch)[np.arange(batch.size), batch.lengths - 1]
        return last

    def shrink(self) -> None:
        """Gives back what runs have taken."""
        self._graph.shrink()

    def _language_outputs(self, batch: Batch, head: FrozenHead) -> Array:
        """Summed loss, counted tokens and correctly predicted ones of each sample, (B, 3)."""
        result = np.zeros((batch.size, 3), np.float32)
        samples, tokens = np.nonzero(batch.targets != NOT_COUNTED)
        if len(samples):
            losses, correct = head.losses(
                self._run(batch)[samples, tokens], batch.targets[samples, tokens]
            )
            values = np.stack((losses, np.ones_like(losses), correct.astype(np.float32)), 1)
            np.add.at(result, samples, values)
        return result

    def _run(self, batch: Batch) -> Array:
        """The graph's one output."""
        feeds = {"hidden": batch.hidden, "attention_mask": _mask(batch.hidden, batch.lengths)}
        if self._config.pair:
            feeds["second_starts"] = batch.second_starts.astype(np.int64)
        if self._config.encoder_layers:
            if batch.encoder_hidden is None or batch.encoder_lengths is None:
                raise ValueError("an encoder-decoder's batch needs encoder_hidden")
            feeds["encoder_hidden"] = batch.encoder_hidden
            mask = _mask(batch.encoder_hidden, batch.encoder_lengths)
            feeds["encoder_attention_mask"] = mask
        encoder = self._config.encoder_layers
        decoder = len(self._config.layers) - encoder
        for name, layers in (("hidden", decoder), ("encoder_hidden", encoder)):
            expected = (layers, self._config.hidden_size)
            if name in feeds and (found := feeds[name].shape[::3]) != expected:
                raise ValueError(f"{name} has (L, d) = {found}, the adapter {expected}")
        (output,) = self._graph.run(feeds, self._graph.output_names)
        return output


def _signature(config: AdapterConfig) -> tuple[set[str], str]:
    """Inputs and output of such an adapter's graph."""
    inputs = {"hidden", "attention_mask"}
    if config.pair:
        inputs.add("second_starts")
    if config.encoder_layers:
        inputs |= {"encoder_hidden", "encoder_attention_mask"}
    return inputs, "features" if config.generative else "outputs"


def _mask(hidden: Array, lengths: Array) -> Array:
    """(B, T) int64, 1 on tokens."""
    mask: Array = (np.arange(hidden.shape[2]) < lengths[:, None]).astype(np.int64)
    return mask
