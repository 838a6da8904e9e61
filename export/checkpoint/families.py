"""Lists the differences between the model families that can be exported.

A new family is a new row; the passes, the cutter and the runtime know none by name.
Attention needs no column: models that ask transformers for an implementation get ours,
see :mod:`.attention`, and a graph pass mends the softmax of those that do not.
"""

import dataclasses
from typing import Any, Literal

from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import InputSpec, Stream, Task

from . import layer_maps
from .layer_maps import LayerMaps

Stack = Literal["encoder", "decoder", "encoder-decoder"]

_TASKS: dict[Stack, tuple[Task, ...]] = {
    "encoder": ("classification", "regression"),
    "decoder": ("classification", "regression", "causal-lm"),
    "encoder-decoder": ("classification", "regression", "seq2seq"),
}
UNLIMITED_LENGTH = 1 << 20
"""Longest sample, in tokens, of a model without a table of positions."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The traits of a ``model_type`` of transformers that decide its export.

    Attributes:
        stack: where the hidden states come from.
        token_types: the model reads ``token_type_ids``.
        own_masks: the model builds its attention masks out of the 0/1 one (causal ones,
            windows); it is given the finished additive mask otherwise.
        positions_after_padding: positions count from ``pad_token_id + 1`` (RoBERTa), which
            takes that many entries off the position table.
        head_scaled: the head's product is multiplied by hidden_size ** -0.5 where the
            configuration says so.
        head_bias: buffer of the language model that is added to the logits.
        load_options: arguments of ``AutoModel.from_pretrained``.
        maps: names of the linear maps of its layers, which pruning reads.
        plain_scores: the scores of attention are not divided by the root of the channels.
    """

    stack: Stack = "encoder"
    token_types: bool = False
    own_masks: bool = False
    positions_after_padding: bool = False
    head_scaled: bool = False
    head_bias: str = ""
    load_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    maps: LayerMaps = layer_maps.LLAMA
    plain_scores: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks that its hidden states serve."""
        return _TASKS[self.stack]

    def streams(self, task: Task) -> tuple[Stream, ...]:
        """The sequences that its graph reads; an encoder alone serves what is pooled."""
        if self.stack == "encoder-decoder":
            return ("encoder", "decoder") if task == "seq2seq" else ("encoder",)
        return (self.stack,)


# The pooler reads the last hidden state only and is no part of the backbone.
_NO_POOLER = {"add_pooling_layer": False}
_ROBERTA = Family(positions_after_padding=True, load_options=_NO_POOLER, maps=layer_maps.BERT)
_DECODER = Family(stack="decoder", own_masks=True)
_T5 = Family(
    stack="encoder-decoder", own_masks=True, head_scaled=True, maps=layer_maps.T5, plain_scores=True
)

FAMILIES = {
    "bart": Family(
        stack="encoder-decoder", own_masks=True, head_bias="final_logits_bias", maps=layer_maps.BART
    ),
    "bert": Family(token_types=True, load_options=_NO_POOLER, maps=layer_maps.BERT),
    "deberta-v2": Family(token_types=True, own_masks=True, maps=layer_maps.BERT),
    "distilbert": Family(maps=layer_maps.DISTILBERT),
    "electra": Family(token_types=True, maps=layer_maps.BERT),
    "gemma": _DECODER,
    "gemma2": _DECODER,
    "gemma3_text": _DECODER,
    "gpt2": dataclasses.replace(_DECODER, maps=layer_maps.GPT2),
    "llama": _DECODER,
    "mistral": _DECODER,
    "modernbert": Family(own_masks=True, maps=layer_maps.MODERNBERT),
    "mt5": dataclasses.replace(_T5, head_scaled=False),  # its heads were trained untied
    "opt": dataclasses.replace(_DECODER, maps=layer_maps.BART),
    "phi": dataclasses.replace(_DECODER, maps=layer_maps.PHI),
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "roberta": _ROBERTA,
    "t5": _T5,
    "xlm-roberta": _ROBERTA,
}


def family_of(model_type: str, where: str) -> Family:
    """The family's row.

    Raises:
        BadInputError: the architecture is not supported; names those that are.
    """
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise BadInputError(
            f"{where}: architecture {model_type!r} is not supported; supported are {supported}"
        )
    return FAMILIES[model_type]


def check_task(task: Task, model_type: str, family: Family) -> None:
    """Refuses a task that the family cannot do.

    Raises:
        UsageError: names the tasks that it can.
    """
    if task not in family.tasks:
        *others, last = family.tasks
        raise UsageError(
            f"--task {task}: a {model_type} model can do {', '.join(others)} or {last} only"
        )


def input_specs(config: Any, family: Family, task: Task) -> tuple[InputSpec, ...]:
    """Lists the graph's inputs: of each sequence its tokens, then its mask."""
    pad = max(getattr(config, "pad_token_id", None) or 0, 0)
    specs: list[InputSpec] = []
    for stream in family.streams(task):
        prefix = "decoder_" if specs else ""
        tokens = InputSpec(
            name=f"{prefix}input_ids", dtype="int64", kind="tokens", pad=pad, stream=stream
        )
        specs.append(tokens)
        if family.token_types:
            specs.append(dataclasses.replace(tokens, name="token_type_ids", pad=0))
        mask = dataclasses.replace(tokens, name=f"{prefix}attention_mask", kind="mask", pad=0)
        specs.append(mask)
    return tuple(specs)


def position_limit(config: Any, family: Family) -> int:
    """The longest sequence, in tokens, that the position table allows."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return UNLIMITED_LENGTH
    return int(positions) - (config.pad_token_id + 1 if family.positions_after_padding else 0)
