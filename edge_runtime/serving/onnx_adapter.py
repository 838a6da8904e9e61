"""A trained adapter as ``adapter.onnx``: evaluation and use without PyTorch."""

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.messages import Array
from edge_runtime.inference.session import GraphSession
from edge_runtime.language_head.frozen_head import Added, FrozenHead
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
        inputs, outputs = _signature(config)
        if (set(self._graph.input_names), self._graph.output_names) != (inputs, outputs):
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
        (outputs,) = self._run(batch)
        return outputs

    def last_logits(self, batch: Batch) -> Array:
        """The logits of what follows each sample's last (decoder) token, (B, V) float32.

        ``batch.targets`` are not read.
        """
        if self._head is None or not self._config.generative:
            raise ValueError(f"an adapter for {self._config.task} has no logits of tokens")
        if not batch.size:
            return np.zeros((0, self._config.num_outputs), np.float32)
        features, added = self._of(batch, np.arange(batch.size), batch.lengths - 1)
        logits = self._head.logits(features)
        if added is not None:
            added.add_to(logits)
        return logits

    def shrink(self) -> None:
        """Gives back what runs have taken."""
        self._graph.shrink()

    def _language_outputs(self, batch: Batch, head: FrozenHead) -> Array:
        """Summed loss, counted tokens and correctly predicted ones of each sample, (B, 3)."""
        result = np.zeros((batch.size, 3), np.float32)
        samples, tokens = np.nonzero(batch.targets != NOT_COUNTED)
        if len(samples):
            features, added = self._of(batch, samples, tokens)
            losses, correct = head.losses(features, batch.targets[samples, tokens], added)
            values = np.stack((losses, np.ones_like(losses), correct.astype(np.float32)), 1)
            np.add.at(result, samples, values)
        return result

    def _of(self, batch: Batch, samples: Array, places: Array) -> tuple[Array, Added | None]:
        """Features of some tokens, and what is added to logits there."""
        if not self._config.copies:
            (features,) = self._run(batch)
            return features[samples, places], None
        if batch.tokens is None:
            raise ValueError("an adapter that copies tokens needs the batch's")
        vocabulary = self._config.num_outputs
        if not 0 <= batch.tokens.min(initial=0) <= batch.tokens.max(initial=0) < vocabulary:
            raise IndexError(f"a token is not below {vocabulary}")
        features, copies = self._run(batch)
        return features[samples, places], Added(copies[samples, places], batch.tokens[samples])

    def _run(self, batch: Batch) -> list[Array]:
        """The graph's outputs."""
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
        return self._graph.run(feeds, self._graph.output_names)


def _signature(config: AdapterConfig) -> tuple[set[str], tuple[str, ...]]:
    """Inputs and outputs of such an adapter's graph."""
    inputs = {"hidden", "attention_mask"}
    if config.pair:
        inputs.add("second_starts")
    if config.encoder_layers:
        inputs |= {"encoder_hidden", "encoder_attention_mask"}
    if not config.generative:
        return inputs, ("outputs",)
    return inputs, ("features", "copies") if config.copies else ("features",)


def _mask(hidden: Array, lengths: Array) -> Array:
    """(B, T) int64, 1 on tokens."""
    mask: Array = (np.arange(hidden.shape[2]) < lengths[:, None]).astype(np.int64)
    return mask
