"""LoRA (peft) on the checkpoint that the bundle was exported from, in fp32.

r = 8 on all linear layers of all blocks; AdamW, linear warm-up and decay, clipping at 1; a
batch's loss is the mean over its counted tokens. Samples and batches are pacplus's own.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edge_runtime.contract.order import epoch_order

from .results import Results, Row

if TYPE_CHECKING:
    from coordinator.samples.samples import SampleTable

DEV_BATCH = 8
WARMUP = 0.06


def load_model(checkpoint: Path) -> Any:
    """The language model as ``pacplus export`` loads it: a folder or a GGUF file."""
    from export.checkpoint.load import find_checkpoint, load_model

    with tempfile.TemporaryDirectory() as scratch:
        found = find_checkpoint(str(checkpoint), Path(scratch))
        return load_model(found, "causal-lm").language_model


def sample(table: SampleTable, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of a sample, and the id that must follow each, -1 where none is counted."""
    (ids,) = table.samples.inputs.values()
    return torch.from_numpy(ids[index].astype(np.int64)), torch.from_numpy(
        table.targets[index].astype(np.int64)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to train.

    The held-out loss is taken after each epoch, and within the first one ``points`` times: after
    all of it, its half, its quarter and so on, as the curve's axis is logarithmic.
    """

    rate: float
    seed: int
    epochs: int
    batch_size: int
    points: int


class Lora:
    """One training, which goes on from its last point if it was stopped."""

    def __init__(
        self, checkpoint: Path, tables: dict[str, SampleTable], options: Options, state: Path
    ) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(options.seed)
        torch.set_flush_denormal(True)
        model = load_model(checkpoint)
        self._backbone, self._head = model.model, model.lm_head
        shape = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", target_modules="all-linear")
        self._model = get_peft_model(model, shape)  # changes the backbone's modules in place
        self._weights = [each for each in self._model.parameters() if each.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=options.rate, weight_decay=0.0)
        self._tables, self._options, self._state = tables, options, state
        self._steps = -(-len(tables["train"]) // options.batch_size)
        self._step, self._seconds = 0, 0.0

    def train(self, results: Results, row: Row) -> None:
        """Trains to the end; adds a row at each point, with CPU-seconds of training alone."""
        total = self._options.epochs * self._steps
        halves = min(self._options.points, self._steps.bit_length())
        marks = {-(-self._steps // 2**halving) for halving in range(halves)}
        self._load()
        self._add_point(results, row)
        while self._step < total:
            epoch, at = divmod(self._step, self._steps)
            batch = self._order(epoch + 1)[at]
            began = time.process_time()
            self._update(batch, total)
            self._seconds += time.process_time() - began
            self._step += 1
            if self._step in marks or self._step % self._steps == 0:
                self._save()
                self._add_point(results, row)

    def _order(self, epoch: int) -> Any:
        table, options = self._tables["train"], self._options
        return epoch_order(
            table.ranks,
            table.samples.lengths,
            num_samples=len(table),
            batch_size=options.batch_size,
            seed=options.seed,
            epoch=epoch,
        )

    def _update(self, batch: Any, total: int) -> None:
        warmup = max(1, round(WARMUP * total))
        part = min((self._step + 1) / warmup, (total - self._step) / max(1, total - warmup))
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.rate * min(part, 1.0)
        loss, counted = self._loss(self._tables["train"], batch.tolist())
        mean = loss / max(1, counted)
        mean.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _add_point(self, results: Results, row: Row) -> None:
        row = {**row, "step": self._step, "epoch": round(self._step / self._steps, 4)}
        if results.find(**row):
            return
        loss = self.held_out()
        results.add({**row, "cpu_seconds": round(self._seconds, 1), "loss": loss})

    def held_out(self) -> float:
        """Mean loss of the counted tokens of the held-out samples."""
        dev, total, count = self._tables["dev"], 0.0, 0
        order = np.argsort(dev.samples.lengths).tolist()
        with torch.inference_mode():
            for at in range(0, len(order), DEV_BATCH):
                loss, tokens = self._loss(dev, order[at : at + DEV_BATCH])
                total, count = total + float(loss), count + tokens
        return total / count

    def _loss(self, table: SampleTable, chosen: list[int]) -> tuple[torch.Tensor, int]:
        """Summed over the counted tokens, and their number."""
        rows = [sample(table, index) for index in chosen]
        shape = len(rows), max(len(ids) for ids, _ in rows)
        ids, mask, targets = (torch.full(shape, fill) for fill in (0, 0, -1))
        for place, (tokens, follow) in enumerate(rows):
            ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
            targets[place, : len(tokens)] = follow
        hidden = self._backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = targets >= 0
        loss = torch.nn.functional.cross_entropy(
            self._head(hidden[counted]), targets[counted], reduction="sum"
        )
        return loss, int(counted.sum())

    def _save(self) -> None:
        """Writes weights and moments; the file appears whole or not at all."""
        from safetensors.torch import save_file

        tensors = {}
        for place, weight in enumerate(self._weights):
            tensors[f"{place}.weight"] = weight.detach()
            for name, value in self._optimizer.state[weight].items():
                tensors[f"{place}.{name}"] = value
        own = json.dumps({"step": self._step, "seconds": self._seconds})
        new = self._state.with_suffix(".new")
        save_file(tensors, new, metadata={"own": own})
        new.replace(self._state)

    def _load(self) -> None:
        from safetensors import safe_open

        if not self._state.exists():
            return
        with safe_open(self._state, "pt") as file:
            own = json.loads(file.metadata()["own"])
            for place, weight in enumerate(self._weights):
                weight.data.copy_(file.get_tensor(f"{place}.weight"))
                moments = ("step", "exp_avg", "exp_avg_sq")
                found = {name: file.get_tensor(f"{place}.{name}") for name in moments}
                self._optimizer.state[weight] = found
        self._step, self._seconds = own["step"], own["seconds"]
