"""Says how far a merged model is from ``evaluate`` and ``predict``, which read a cache."""

from collections.abc import Iterator

from coordinator.runs.run_folder import RunFolder
from coordinator.tokenization.loading import load_tokenizer
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.serving.cache_effect import TokenizedText, cache_effect
from export.partition.stages import Bundle

AGREEMENT = 1e-3
"""Differences below it are not worth a word: fp16 makes some 2e-4, fp32 none."""

TEXTS = (
    "The weather was fine, so they walked home along the river.",
    "Stop!",
    "How many of the 42 trains at 7:15 were late, and why did nobody say so before noon?",
    "Die Katze schläft auf dem warmen Dach.",
)


def cache_note(run: RunFolder, bundle: Bundle) -> tuple[str, ...]:
    """Notes what the rounding of an int8 cache makes of some texts' outputs.

    Other dtypes are not measured: see ``AGREEMENT``.
    """
    dtype = run.settings().cache_dtype
    if dtype != "int8":
        return ()
    config, adapter = run.read_adapter_graph()
    texts = tuple(_tokenized(bundle, config))
    moved = cache_effect(bundle.path, bundle.manifest, config, adapter, dtype, texts)
    if moved <= AGREEMENT:
        return ()
    told = f"differ by up to {moved:.2g} from those of evaluate and predict"
    if config.generative:
        told = f"the loss of four texts differs by {moved:.2g} from that of evaluate"
    elif config.task == "regression":
        told = f"its values (in standard deviations of the labels) {told}"
    else:
        told = f"its logits {told}"
    return (
        f"the run caches hidden states in int8 and this model does not round them: {told}; "
        "a run with --cache-dtype fp16 agrees within 0.001",
    )


def _tokenized(bundle: Bundle, config: AdapterConfig) -> Iterator[TokenizedText]:
    tokenizer, longest = load_tokenizer(bundle.path), bundle.manifest.max_length
    tokenizer.enable_truncation(longest)
    start = bundle.manifest.decoder_start_token_id or 0
    for index, text in enumerate(TEXTS):
        found = tokenizer.encode(text, TEXTS[index - 1] if config.pair else None)
        ids, segments = found.ids or [start], found.sequence_ids
        yield TokenizedText(
            inputs={
                "input_ids": ids,
                "token_type_ids": found.type_ids or [0],
                "decoder_input_ids": [start, *ids][:longest],
            },
            second_start=segments.index(1) if config.pair and 1 in segments else 0,
        )
