"""Prompts to token ids, and what was generated back to text."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from coordinator.data import Prompts
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.sample import Samples
from export.chat.sandbox import render_conversations, render_prompts

from .loading import encodings, frame_of, load_template, load_tokenizer
from .model_inputs import check_language_model, decoder_start, filler, make_samples, token_inputs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedPrompts:
    """Token ids of prompts; ``num_truncated`` of them were cut."""

    samples: Samples
    num_truncated: int


class PromptTokenizer:
    """Makes token ids of what one bundle's model is to continue, as training data has them.

    A prompt is cut on the left, for its end is what is continued; a source on the right.
    """

    def __init__(self, bundle: Path, manifest: Manifest, max_new_tokens: int) -> None:
        """Loads the tokenizer.

        Args:
            bundle: folder of the bundle.
            manifest: of the bundle.
            max_new_tokens: what prompts leave room for; no more than half of the model's.

        Raises:
            BadInputError: the tokenizer is absent or unreadable, or the backbone takes
                inputs that cannot be made from text.
        """
        self._bundle, self._manifest = bundle, manifest
        self._two_stacks = len(manifest.streams) > 1
        check_language_model(bundle, manifest)
        self._tokenizer = load_tokenizer(bundle)
        self._before, self._after = frame_of(self._tokenizer)
        longest = manifest.max_length
        self.limit = max(longest - max_new_tokens, longest // 2, 1)

    def encode(self, prompts: Prompts, path: str | None) -> TokenizedPrompts:
        """Token ids of every prompt.

        Args:
            prompts: what is to be continued.
            path: where they are from; None for the command line.

        Raises:
            BadInputError: the bundle lacks a chat template or a start token that is needed,
                the template cannot be used, or a prompt has no token.
        """
        lines = prompts.places
        if self._two_stacks:
            rows = list(self._sources(prompts.texts))
        elif prompts.chats:
            rows = list(self._cut(self._chats(prompts, lines, path), before=[]))
        else:
            ids = self._ids(prompts.texts)
            rows = list(self._cut(ids, before=self._before))
        for line, row in zip(lines, rows, strict=True):
            if not row[0]:
                raise BadInputError(f"{line}: has no token to continue from; give some text")
        return self._gathered(rows)

    def decode(self, context: Sequence[int], written: Sequence[int]) -> str:
        """The text of ``written``, which follows ``context`` in one sequence."""
        before = "" if self._two_stacks else self._tokenizer.decode(list(context))
        # Many tokenizers drop the blank before a text's first word, which here is none.
        whole = self._tokenizer.decode([*context, *written])
        if before and whole.startswith(before):
            return whole[len(before) :]
        return self._tokenizer.decode(list(written))

    def expected(self, prompts: Prompts, path: str) -> tuple[str, ...]:
        """Writes what should follow every prompt as :meth:`decode` would write it.

        Raises:
            BadInputError: as :meth:`encode`.
        """
        if not prompts.answered:
            return prompts.expected
        template = load_template(self._bundle, path, "prompts")
        rendered = render_conversations(template, prompts.answered, prompts.places)
        turns = [chat.text[slice(*chat.spans[-1])] for (chat, *_) in rendered]
        stops = self._manifest.eos_token_ids
        kept = ([token for token in ids if token not in stops] for ids in self._ids(turns))
        return tuple(self._tokenizer.decode(ids) for ids in kept)

    def count_longer(self, texts: Sequence[str], tokens: int) -> int:
        """Counts the texts that have more than so many tokens."""
        return sum(len(ids) > tokens for ids in self._ids(texts))

    def _ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for encoding in encodings(self._tokenizer, texts):
            yield encoding.ids

    def _chats(
        self, prompts: Prompts, lines: Sequence[str], path: str | None
    ) -> Iterator[list[int]]:
        template = load_template(self._bundle, path, "prompts")
        return self._ids(render_prompts(template, prompts.chats, lines))

    def _cut(
        self, ids: Iterator[list[int]], before: Sequence[int]
    ) -> Iterator[tuple[list[int], bool]]:
        """The ends of prompts, and whether anything was cut."""
        room = max(self.limit - len(before), 1)
        for prompt in ids:
            yield [*before, *prompt[-room:]], len(prompt) > room

    def _sources(self, texts: Sequence[str]) -> Iterator[tuple[list[int], bool]]:
        room = max(self._manifest.max_length - len(self._before) - len(self._after), 0)
        for source in self._ids(texts):
            ids = [*self._before, *source[:room], *self._after]
            # The encoder needs a token; of an empty text without a frame none is left.
            yield ids[: self._manifest.max_length] or [filler(self._manifest)], len(source) > room

    def _gathered(self, rows: Sequence[tuple[list[int], bool]]) -> TokenizedPrompts:
        names = token_inputs(self._manifest)
        inputs = {names[0]: [ids for ids, _ in rows]}
        if self._two_stacks:
            inputs[names[1]] = [[decoder_start(self._bundle, self._manifest)]] * len(rows)
        samples = make_samples(self._manifest, inputs)
        return TokenizedPrompts(samples=samples, num_truncated=sum(cut for _, cut in rows))
