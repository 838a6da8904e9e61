"""Samples and next-token targets for language models.

``targets[t]`` is the id that must follow token t of the sequence that the model writes, -1
where no loss is counted. A decoder-only model reads what it is to write, so its targets are
its own ids, one further on; an encoder-decoder writes a sequence of its own.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.data import Completions, Conversations, Documents, LanguageData, Transformations
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.sample import Ragged, Samples
from export.chat.conversation import Conversation
from export.chat.sandbox import TemplateSource, render_conversations

from .loading import encodings, frame_of, load_template, load_tokenizer
from .model_inputs import check_language_model, decoder_start, filler, make_samples, token_inputs

log = logging.getLogger(__name__)

NOT_COUNTED = -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedLanguage:
    """Samples with targets, and what became of the lines.

    Attributes:
        samples: those with a counted token.
        targets: as many rows, each as long as its sample's output sequence.
        kept: which line of the data each sample is, (N,) int64.
        truncated: lines that were cut to ``max_length``, and are learnt as far.
        num_skipped: lines without a token to learn, most of them for having been cut.
        notes: what else the user should know of how the lines are learnt.
    """

    samples: Samples
    targets: Ragged
    kept: npt.NDArray[np.int64]
    truncated: tuple[int, ...]
    num_skipped: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    line: int
    inputs: Mapping[str, Sequence[int]]
    targets: npt.NDArray[np.int32]
    truncated: bool


class LanguageTokenizer:
    """Makes samples for one bundle."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Loads the tokenizer.

        Raises:
            BadInputError: it is absent or unreadable, or the backbone takes inputs that
                cannot be made from text.
        """
        check_language_model(bundle, manifest)
        self._bundle, self._manifest = bundle, manifest
        self._max_length = manifest.max_length
        self._tokenizer = load_tokenizer(bundle)
        self._before, self._after = frame_of(self._tokenizer)

    def encode(self, data: LanguageData, path: str) -> TokenizedLanguage:
        """Tokenises a file's lines.

        Args:
            data: the lines.
            path: where they are from, for messages.

        Raises:
            BadInputError: the bundle lacks an end token or a chat template that is needed,
                the template cannot be used, or no line has a token to learn.
        """
        notes: list[str] = []
        if isinstance(data, Documents):
            rows = self._documents(data)
        elif isinstance(data, Completions):
            rows = self._completions(data)
        elif isinstance(data, Conversations):
            rows = self._conversations(data, path, notes)
        else:
            rows = self._transformations(data)
        every = list(rows)
        notes += self._notes_on_special(data, path)
        found = [row for row in every if (row.targets != NOT_COUNTED).any()]
        if not found:
            raise BadInputError(
                f"{path}: no line has a token to learn within the {self._max_length} tokens that "
                "are taken; give shorter texts, or a larger --max-length here or at export"
            )
        names = token_inputs(self._manifest)
        samples = make_samples(
            self._manifest, {name: [row.inputs[name] for row in found] for name in names}
        )
        kept = {row.line for row in found}
        truncated = kept & {row.line for row in every if row.truncated}
        skipped = len(data.places) - len(kept)
        log.debug("%d samples, %d truncated, %d skipped", len(samples), len(truncated), skipped)
        return TokenizedLanguage(
            samples=samples,
            targets=Ragged.from_rows(row.targets for row in found),
            kept=np.array([row.line for row in found], np.int64),
            truncated=tuple(sorted(truncated)),
            num_skipped=skipped,
            notes=tuple(notes),
        )

    def _notes_on_special(self, data: LanguageData, path: str) -> Iterator[str]:
        """Notes texts of which the tokenizer takes a part for a special token."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        special = [re.escape(token.content) for token in added if token.special]
        if not special:
            return
        pattern = re.compile("|".join(special))
        found = [match for text in _written(data) if (match := pattern.search(text))]
        if found:
            yield (
                f"{path}: {len(found)} of its texts have the name of a special token "
                f"({found[0].group()!r} first), which becomes that token, as transformers does it"
            )

    def _documents(self, data: Documents) -> Iterator[_Row]:
        end = self._end_token()
        texts = encodings(self._tokenizer, data.texts)
        for line, encoding in enumerate(texts):
            ids = [*self._before, *encoding.ids, end]
            yield self._decoder_row(line, ids, [True] * len(ids))

    def _completions(self, data: Completions) -> Iterator[_Row]:
        end = self._end_token()
        continuing = load_tokenizer(self._bundle, continuing=True)
        prompts = encodings(self._tokenizer, data.prompts)
        completions = encodings(continuing, data.completions)
        for line, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            answer = [*completion.ids, end]
            room = self._max_length - len(self._before) - len(answer)
            # The answer's first token needs one before it, or nothing could predict it.
            kept = max(room, 0 if self._before else 1)
            question = (
                prompt.ids[len(prompt.ids) - kept :] if kept < len(prompt.ids) else prompt.ids
            )
            context = [*self._before, *question]
            row = self._decoder_row(
                line, [*context, *answer], [False] * len(context) + [True] * len(answer)
            )
            cut = len(question) < len(prompt.ids)
            yield dataclasses.replace(row, truncated=row.truncated or cut)

    def _conversations(self, data: Conversations, path: str, notes: list[str]) -> Iterator[_Row]:
        template = load_template(self._bundle, path, "prompt and completion")
        rendered = render_conversations(template, data.conversations, data.places)
        lines = [i for i, samples in enumerate(rendered) for _ in samples]
        chats = [sample for samples in rendered for sample in samples]
        ends = self._end_markers(template)
        encoded = encodings(self._tokenizer, [chat.text for chat in chats], offsets=True)
        endless: set[int] = set()
        for line, chat, encoding in zip(lines, chats, encoded, strict=True):
            spans = [_trimmed(chat.text, span, ends) for span in chat.spans]
            starts = np.array([start for start, _ in encoding.offsets], np.int64)
            counted = np.zeros(len(starts), bool)
            for first, last in spans:
                counted |= (first <= starts) & (starts < last)
                if not (ends and chat.text[first:last].endswith(ends)):
                    endless.add(line)
            yield self._decoder_row(line, encoding.ids, counted.tolist())
        if len(chats) > len(rendered):
            split = sum(len(samples) > 1 for samples in rendered)
            notes.append(
                f"{path}: the chat template rewrites earlier turns of {split} lines; each of these "
                "turns is learnt in a sample of its own, which ends with it: "
                f"{len(chats)} samples of {len(rendered)} lines"
            )
        if endless:
            notes.append(
                f"{path}: {len(endless)} lines have answers behind which the chat template writes "
                "no stop token; the model does not learn to stop there"
            )

    def _transformations(self, data: Transformations) -> Iterator[_Row]:
        end, start = self._end_token(), decoder_start(self._bundle, self._manifest)
        room = self._max_length - len(self._before) - len(self._after)
        sources = encodings(self._tokenizer, data.sources)
        targets = encodings(self._tokenizer, data.targets)
        for line, (source, target) in enumerate(zip(sources, targets, strict=True)):
            ids = [*self._before, *source.ids[: max(room, 0)], *self._after]
            written = [*self._before, *target.ids, end]
            kept = written[: self._max_length]
            yield _Row(
                line=line,
                inputs={
                    # The encoder needs a token; of an empty text without a frame none is left.
                    "input_ids": ids[: self._max_length] or [filler(self._manifest)],
                    "decoder_input_ids": [start, *kept[:-1]],
                },
                targets=np.array(kept, np.int32),
                truncated=len(source.ids) > room or len(written) > len(kept),
            )

    def _decoder_row(self, line: int, ids: Sequence[int], counted: Sequence[bool]) -> _Row:
        """Cuts on the right; the token behind t is t's target where it is counted."""
        kept = np.array(ids[: self._max_length], np.int32)
        targets = np.full(len(kept), NOT_COUNTED, np.int32)
        targets[:-1] = np.where(counted[1 : len(kept)], kept[1:], NOT_COUNTED)
        truncated = len(ids) > self._max_length
        inputs = {"input_ids": kept.tolist()}
        return _Row(line=line, inputs=inputs, targets=targets, truncated=truncated)

    def _end_token(self) -> int:
        if not self._manifest.eos_token_ids:
            raise BadInputError(
                f"{self._bundle}: does not say which token ends a text; give the model an "
                "eos_token_id in its config.json and export it again"
            )
        return self._manifest.eos_token_ids[0]

    def _end_markers(self, template: TemplateSource) -> tuple[str, ...]:
        tokens = [self._tokenizer.id_to_token(i) for i in self._manifest.eos_token_ids]
        return tuple(filter(None, (*tokens, template.variables.get("eos_token"))))


def keys_to_write(
    chat: Conversation, messages: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Lists what a template must name to write a chat; as ``export.chat.turns`` does it."""
    from export.chat import turns  # jinja2, which takes long to import

    return turns.keys_to_write(chat, messages)


def _written(data: LanguageData) -> Iterator[str]:
    """Every text that people wrote into the data."""
    if isinstance(data, Documents):
        yield from data.texts
    elif isinstance(data, Completions):
        yield from (*data.prompts, *data.completions)
    elif isinstance(data, Transformations):
        yield from (*data.sources, *data.targets)
    else:
        for chat in data.conversations:
            yield json.dumps([chat.messages, chat.tools], ensure_ascii=False)


def _trimmed(text: str, span: tuple[int, int], ends: tuple[str, ...]) -> tuple[int, int]:
    """Without the blanks behind an end marker, which nobody asks the model to write."""
    first, last = span
    written = text[first:last].rstrip()
    return (first, first + len(written)) if ends and written.endswith(ends) else span
