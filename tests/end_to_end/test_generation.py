"""Two devices write what PyTorch would."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pacplus as pacplus_api
from coordinator.api import run as running
from coordinator.api.adapter_config import AdapterChoice, DataTraits, adapter_config
from coordinator.api.use.engines import engine_of
from coordinator.api.use.generate import generate_tokens
from coordinator.api.use.trained_run import TrainedRun
from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import NullObserver
from coordinator.protocol.job import Continuation
from coordinator.tokenization import PromptTokenizer
from devices.specification import parse_emulate
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, adapter_weights
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.sample import Ragged, Samples, sample_keys
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, Predictor, Trainer
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from export.partition.stages import Bundle, open_bundle
from tests.conftest import TinyBundleMaker
from tests.edge_runtime.parallel_adapters.samples import moved
from tests.processes import pacplus, succeed, write_jsonl
from tests.runs import unfinished_run

PROMPTS = ([5, 6, 7, 8], [9], [10, 11, 12, 5, 6, 7, 8, 9, 10], [6, 7, 8, 9, 10])
MOST = 12


def language_run(bundle: Bundle, path: Path, *, scale: float) -> tuple[AdapterConfig, bytes]:
    """A run whose adapter was moved so far from its first values."""
    manifest = bundle.manifest
    choice = AdapterChoice(reduction=4)
    config = adapter_config(manifest, manifest.task, choice, DataTraits())
    trainer = Trainer(config, TrainingOptions(), 1, head=head_of(bundle, config))
    if scale:
        moved(trainer, scale)
    weights = adapter_weights(trainer.state())
    unfinished_run(bundle, path).write_adapter(config, weights)
    return config, weights


def head_of(bundle: Bundle, config: AdapterConfig) -> FrozenHead:
    assert bundle.manifest.head is not None
    return FrozenHead.open(bundle.path / bundle.manifest.head.path, config)


def samples_of(bundle: Bundle, rows: Sequence[Sequence[int]]) -> Samples:
    manifest = bundle.manifest
    specs = [spec for spec in manifest.inputs if spec.kind == "tokens"]
    inputs = {specs[0].name: Ragged.from_rows(rows)}
    if len(specs) == 2:
        inputs[specs[1].name] = Ragged.from_rows([[manifest.decoder_start_token_id]] * len(rows))
    return Samples(
        inputs=inputs,
        streams={spec.name: spec.stream for spec in specs},
        second_starts=np.zeros(len(rows), np.int32),
        keys=sample_keys(manifest.backbone_digest, inputs),
    )


@pytest.fixture
def write(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """Has two devices, each with a stage and some prompts to answer, continue ``PROMPTS``."""
    monkeypatch.setenv("PACPLUS_HOME", str(home))

    def run(bundle: Bundle, path: Path, cut: int, **options: Any) -> list[list[int]]:
        blocks = len(bundle.manifest.blocks)
        functions = SimpleNamespace(
            check_devices=lambda _: None,
            make_plan=lambda _: two_stages(blocks, cut),
            worth_measuring=lambda _: {},
            judge=None,
        )
        monkeypatch.setattr(running, "planner", lambda *_, **__: functions)
        task = Continuation(
            prompts=samples_of(bundle, PROMPTS),
            options=GenerationOptions(max_new_tokens=MOST, **options),
        )
        cluster = Cluster(emulate=parse_emulate("laptop,laptop"))
        trained = TrainedRun.open(path, bundle.path)
        return generate_tokens(trained, task, engine_of(trained, cluster), NullObserver())

    return run


def two_stages(blocks: int, cut: int) -> Plan:
    names = [DeviceId(f"laptop-{i}") for i in (1, 2)]
    bounds = ((0, cut), (cut, blocks))
    return Plan(
        stages=tuple(
            Stage(first=first, last=last, devices=(StageDevice(device=name),))
            for name, (first, last) in zip(names, bounds, strict=True)
        ),
        owners=tuple(
            Owner(device=name, shards=tuple(range(8 * i, 8 * i + 8)))
            for i, name in enumerate(names)
        ),
        num_shards=16,
        micro_batch_size=4,
    )


def reference(folder: Path, task: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForCausalLM if task == "causal-lm" else AutoModelForSeq2SeqLM
    return auto.from_pretrained(folder).eval()


def greedy(model: Any, prompt: Sequence[int]) -> list[int]:
    """What transformers writes, without the end."""
    import torch

    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MOST,
            do_sample=False,
            use_cache=False,
        )[0].tolist()
    written = found[1:] if model.config.is_encoder_decoder else found[len(prompt) :]
    ends = model.generation_config.eos_token_id
    return [i for i in written if i not in (ends if isinstance(ends, list) else [ends])]


def right_tokens(
    model: Any, bundle: Bundle, config: AdapterConfig, weights: bytes, line: int, written: list[int]
) -> tuple[int, int]:
    """Of the tokens written behind a prompt, how many PyTorch's adapter gives the largest logit."""
    import torch

    manifest = bundle.manifest
    ended = [*written, manifest.eos_token_ids[0]][:MOST]
    prompt = list(PROMPTS[line])
    two = len(manifest.streams) == 2
    begin = [manifest.decoder_start_token_id] if two else prompt
    output = [*begin, *ended]
    with torch.no_grad():
        ids = torch.tensor([output[:-1]])
        if two:
            found = model.model if hasattr(model, "model") else model
            source = torch.tensor([prompt])
            found = model(input_ids=source, decoder_input_ids=ids, output_hidden_states=True)
            states = [*found.encoder_hidden_states, *found.decoder_hidden_states]
        else:
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
    arrays = [state.numpy() for state in states]
    chosen = [arrays[layer] for layer in config.layers]
    hidden = np.stack(chosen[config.encoder_layers :])
    targets = np.full((1, hidden.shape[2]), NOT_COUNTED, np.int64)
    targets[0, len(begin) - 1 :] = ended
    batch = Batch(
        hidden=hidden,
        lengths=np.array([hidden.shape[2]]),
        second_starts=np.zeros(1, np.int64),
        targets=targets,
        encoder_hidden=np.stack(chosen[: config.encoder_layers]) if two else None,
        encoder_lengths=np.array([len(prompt)]) if two else None,
        tokens=np.array([output[:-1]]) if config.copies else None,
    )
    predictor = Predictor(config, weights, head=head_of(bundle, config))
    _, counted, right = predictor.outputs(batch)[0].tolist()
    return int(right), int(counted)


# The last state of these families is normalized at the end of the backbone, as transformers'
# ``hidden_states`` has it, so both sides read the same. T5 is cut within encoder and decoder.
FAMILIES = [("llama", 2), ("t5", 1), ("t5", 4)]


@pytest.mark.parametrize(("family", "cut"), FAMILIES)
def test_an_untrained_adapter_writes_what_the_model_does(
    family: str,
    cut: int,
    tiny_bundle: TinyBundleMaker,
    tiny_model: Callable[[str], Path],
    write: Callable[..., list[list[int]]],
    tmp_path: Path,
) -> None:
    bundle = tiny_bundle(family, "none")
    language_run(bundle, tmp_path / "run", scale=0.0)
    model = reference(tiny_model(family), bundle.manifest.task)
    written = write(bundle, tmp_path / "run", cut)
    assert written == [greedy(model, prompt) for prompt in PROMPTS]
    assert max(map(len, written)) > 3


@pytest.mark.parametrize(("family", "cut"), FAMILIES)
def test_a_trained_adapter_writes_what_pytorch_predicts(
    family: str,
    cut: int,
    tiny_bundle: TinyBundleMaker,
    tiny_model: Callable[[str], Path],
    write: Callable[..., list[list[int]]],
    tmp_path: Path,
) -> None:
    bundle = tiny_bundle(family, "none")
    config, weights = language_run(bundle, tmp_path / "run", scale=0.3)
    model = reference(tiny_model(family), bundle.manifest.task)
    written = write(bundle, tmp_path / "run", cut)
    assert written != [greedy(model, prompt) for prompt in PROMPTS]
    for line, tokens in enumerate(written):
        right, counted = right_tokens(model, bundle, config, weights, line, tokens)
        assert right == counted == min(len(tokens) + 1, MOST)


def test_what_is_drawn_can_be_drawn_again(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path
) -> None:
    """From the command line; three devices draw what one does, another seed something else."""
    bundle = tiny_bundle("llama", "none")
    language_run(bundle, tmp_path / "run", scale=0.0)
    words = ["the cat", "the film is good", "music and rain", "a dog"]
    data = write_jsonl(tmp_path / "data.jsonl", [{"prompt": word} for word in words])

    def drawn(*more: str) -> list[str]:
        found = succeed(
            *(home, "predict", tmp_path / "run", "--data", data, "--max-new-tokens", "6"),
            *("--temperature", "1.5", "--json", *more),
        )
        return [prediction["text"] for prediction in found.report["predictions"]]

    alone = drawn("--seed", "5")
    assert drawn("--seed", "5", "--emulate", "laptop,laptop,laptop") == alone
    assert drawn("--seed", "6") != alone
    assert len(set(alone)) > 1
    assert all(0 < len(text.split()) <= 6 for text in alone)


def test_writing_takes_no_pytorch(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("llama", "none")
    language_run(bundle, tmp_path / "run", scale=0.0)
    absent = "import sys\nfor name in ('torch', 'transformers'):\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(absent)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = succeed(
        *(home, "predict", tmp_path / "run", "--text", "the cat", "--max-new-tokens", "3"),
        *("--emulate", "laptop,laptop", "--json"),
    ).report
    assert len(found["predictions"]) == 1


def test_evaluation_compares_what_is_written(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path
) -> None:
    bundle = tiny_bundle("t5", "none")
    run = tmp_path / "run"
    language_run(bundle, run, scale=0.0)
    sources = ["the cat", "the film is good"]
    found = succeed(home, "predict", run, "--text", sources[0], "--text", sources[1], "--json")
    texts = [prediction["text"] for prediction in found.report["predictions"]]
    lines = [
        {"source": source, "target": target}
        for source, target in zip(sources, [texts[0], "something else"], strict=True)
    ]
    data = write_jsonl(tmp_path / "data.jsonl", lines)
    report = succeed(home, "evaluate", run, "--data", data, "--generate", "--json").report
    assert set(report) == {"loss", "perplexity", "token_accuracy", "exact_match"}
    assert report["exact_match"] == 0.5
    ended = succeed(
        *(home, "evaluate", run, "--data", data, "--generate", "--max-new-tokens", "1", "--json")
    )
    assert "1 of 2 references are longer than 1 tokens" in " ".join(ended.err.split())
    plain = succeed(home, "evaluate", run, "--data", data, "--json").report
    assert set(plain) == {"loss", "perplexity", "token_accuracy"}
    wrong = pacplus(home, "evaluate", run, "--data", data, "--max-new-tokens", "3")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


def test_a_text_is_what_a_user_says_where_the_run_was_trained_on_chats(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("llama", "none")
    monkeypatch.setenv("PACPLUS_HOME", str(home))
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    tokenizer = tmp_path / "bundle" / "tokenizer"
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tokenizer / "chat_template.jinja").write_text(template)
    chats = open_bundle(tmp_path / "bundle")
    language_run(chats, tmp_path / "run", scale=0.3)
    settings = tmp_path / "run" / "run.json"
    how = GenerationOptions(max_new_tokens=8)

    def answer(chat: bool, text: str) -> str | None:
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chats": chat}))
        (found,) = pacplus_api.predict(tmp_path / "run", [text], generation=how)
        return found.text

    assert answer(True, "the cat") == answer(False, "[the cat]")
    assert answer(True, "the cat") != answer(False, "the cat")


def test_bytes_that_are_no_text_are_refused(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path
) -> None:
    language_run(tiny_bundle("llama", "none"), tmp_path / "run", scale=0.0)
    ended = pacplus(home, "predict", tmp_path / "run", "--text", os.fsdecode(b"\xff\xfe"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "text 1: is no text in UTF-8" in ended.err


def test_long_prompts_are_cut_and_it_is_said(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path
) -> None:
    bundle = tiny_bundle("llama", "none")
    language_run(bundle, tmp_path / "run", scale=0.0)
    limit = PromptTokenizer(bundle.path, bundle.manifest, 20).limit
    text = "the cat " * bundle.manifest.max_length
    ended = succeed(
        *(home, "predict", tmp_path / "run", "--text", text, "--max-new-tokens", "20", "--json")
    )
    assert f"1 prompts are longer than {limit} tokens" in " ".join(ended.err.split())
    assert len(json.loads(ended.out)["predictions"][0]["text"].split()) <= 20
