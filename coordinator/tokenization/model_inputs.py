"""Makes samples of token ids, as one bundle's backbone takes them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.sample import Ragged, Samples, sample_keys

DECODER_INPUTS = ("input_ids",)
ENCODER_DECODER_INPUTS = ("input_ids", "decoder_input_ids")


def token_inputs(manifest: Manifest) -> tuple[str, ...]:
    """Lists the inputs that take token ids, in order."""
    return tuple(spec.name for spec in manifest.inputs if spec.kind == "tokens")


def filler(manifest: Manifest, name: str = "input_ids") -> int:
    """Gives the token of a sample that has none: every sample needs one to pool over."""
    return next(spec.pad for spec in manifest.inputs if spec.name == name)


def make_samples(
    manifest: Manifest,
    rows: Mapping[str, Iterable[Sequence[int]]],
    second_starts: Sequence[int] | None = None,
) -> Samples:
    """Gathers samples.

    Args:
        manifest: of the bundle.
        rows: token ids of each sample by the input's name.
        second_starts: where each sample's second text begins; 0 by default: it has none.
    """
    inputs = {name: Ragged.from_rows(each) for name, each in rows.items()}
    count = len(next(iter(inputs.values())))
    return Samples(
        inputs=inputs,
        second_starts=np.array(second_starts or [0] * count, np.int32),
        keys=sample_keys(manifest.backbone_digest, inputs),
        streams={spec.name: spec.stream for spec in manifest.inputs if spec.kind == "tokens"},
    )


def check_language_model(bundle: Path, manifest: Manifest) -> None:
    """Raises BadInputError if the backbone takes other inputs than a language model's."""
    names = token_inputs(manifest)
    if names != (ENCODER_DECODER_INPUTS if len(manifest.streams) > 1 else DECODER_INPUTS):
        raise BadInputError(
            f"{bundle}: the backbone takes {', '.join(names)}, which a language model does not; "
            "export the model again"
        )


def decoder_start(bundle: Path, manifest: Manifest) -> int:
    """Gives the token that a decoder starts with.

    Raises:
        BadInputError: the bundle does not say.
    """
    if manifest.decoder_start_token_id is None:
        raise BadInputError(
            f"{bundle}: does not say which token a decoder starts with; give the model a "
            "decoder_start_token_id in its config.json and export it again"
        )
    return manifest.decoder_start_token_id
