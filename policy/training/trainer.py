"""Imitation: a model learns from demonstrations, and goes on where it was stopped.

Every step draws its randomness from the seed and its own number, so a run that was killed and
resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from bridge.contract import UserError
from bridge.files import check_writable, write_json
from bridge.options import differences, plain
from bridge.ranges import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    Workers,
    check_ranges,
)
from policy.export.restore import restore_model
from policy.model.moe import mixtures
from policy.model.quantize import set_quantized
from policy.model.stages import act
from policy.model.vla import BANDS_PER_STEP, Model, ModelConfig
from policy.runtime.bundle import is_bundle
from policy.training.batches import Augmentation, Batch, Demonstrations, Encode, load_demonstrations
from policy.training.checkpoint import (
    CHECKPOINT_FILE,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from policy.training.losses import (
    WEIGHTS,
    losses,
    perception_losses,
    slots_loss,
    status_weights,
)

# What may change from one call to the next of one run: its length, speed and notes.
FREE = ("steps", "minutes", "threads", "log_steps", "evaluate_steps", "checkpoint_minutes")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Its length is `minutes` if given, else `steps`.

    `start` is a run, checkpoint or bundle to go on from, with its normalisation and action bins, as
    a round on new data does. `no_text` and `no_image` train baselines that are not given these.
    The first `perception_fraction` trains instruction and image encoder alone, many times as fast,
    to find what is named. With `words_only` nothing but the reading of words learns, from sentences
    without pictures.
    The last `quantized_share` trains with 8-bit weights and a frozen choice of experts. Both begin
    at a rate that rises over `warmup_share`. Labels of the `emphasised` actions are drawn
    `emphasis` times as often: rare ones that take a rhythm.
    """

    steps: PositiveInt = 10_000
    minutes: PositiveFloat | None = None
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.05
    warmup_share: Share = 0.02
    final_rate: Share = 0.02
    clip_norm: PositiveFloat = 1.0
    average_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.998
    balance_rate: NonNegativeFloat = 2e-3
    perception_fraction: Share = 0.15
    quantized_share: Share = 0.15
    seed: Seed = 0
    threads: Workers = 2
    log_steps: PositiveInt = 50
    evaluate_steps: PositiveInt = 500
    checkpoint_minutes: PositiveFloat = 3.0
    start: Path | None = None
    no_text: bool = False
    no_image: bool = False
    words_only: bool = False
    emphasised: tuple[str, ...] = ("wave",)
    emphasis: PositiveFloat = 3.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: ModelConfig = field(default_factory=ModelConfig)


class Trainer:
    """One training run: model, moving average, optimizer and how far it has come."""

    def __init__(self, config: TrainConfig, data: Demonstrations, run: Path) -> None:
        self.config, self.data, self.run = config, data, run
        data.emphasise(config.emphasised, config.emphasis)
        torch.manual_seed(config.seed)
        self.model = self._new_model().train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_groups(self.model, config.weight_decay), fused=True)
        self.status_weights = status_weights(torch.from_numpy(data.status))
        self.step, self.elapsed_s = 0, 0.0
        self.expert_use = torch.zeros(self.model.config.layers, self.model.config.experts)
        if (run / CHECKPOINT_FILE).is_file():
            numbers = load_checkpoint(
                run / CHECKPOINT_FILE, self.model, self.average, self.optimizer
            )
            self.step, self.elapsed_s = numbers["step"], numbers["elapsed_s"]

    @property
    def judged_on(self) -> str:
        """Which frames `evaluate` takes: a few episodes leave none to hold out."""
        return "held_out" if self.data.n_held_out else "training_data"

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1."""
        if self.config.minutes is not None:
            return min(1.0, self.elapsed_s / (60 * self.config.minutes))
        return min(1.0, self.step / self.config.steps)

    def train_step(self) -> dict[str, Tensor]:
        """One batch: its losses, as tensors without gradient; UserError if they diverge."""
        started = time.perf_counter()
        config, progress = self.config, self.progress
        rng = np.random.default_rng([config.seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        quantized = progress >= 1 - config.quantized_share
        set_quantized(self.model, quantized)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(progress)
        found = self._read(rng) if config.words_only else self._draw_and_score(rng, progress)
        self.optimizer.zero_grad()
        found["total"].backward()
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=True)
        if not norm.isfinite():  # as of any loss that is not
            raise UserError(
                f"the loss is no longer finite at step {self.step}: {self.run} keeps the last good"
                " checkpoint; begin with a lower --learning-rate"
            )
        self.optimizer.step()
        self._count_experts(rebalance=not quantized)
        self._update_average()
        self.step += 1
        self.elapsed_s += time.perf_counter() - started
        return {name: loss.detach() for name, loss in found.items()}

    def save(self) -> None:
        """Writes the checkpoint of the run, unless its weights would be of no use to anybody."""
        if not all(
            tensor.isfinite().all()
            for tensor in (*self.model.parameters(), *self.average.parameters())
        ):
            return
        numbers = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "samples": self.step * self.config.batch_size,
            "frames": len(self.data.images),
            "labels": self.data.n_labels,
            "seed": self.config.seed,
        }
        path = self.run / CHECKPOINT_FILE
        save_checkpoint(path, self.model, self.average, self.optimizer, numbers)

    @torch.no_grad()
    def evaluate(self, size: int = 256) -> dict[str, float]:
        """Figures of the moving average as `judged_on` says; velocity errors in m/s or rad/s.

        `ignored_words` is the share of velocity commands that stay the same when the instruction
        is exchanged for that of another sample: near one means that nobody listens.
        """
        set_quantized(self.average, self.progress >= 1 - self.config.quantized_share)
        batch = self._blinded(self.data.held_out(np.random.default_rng(0), size))
        found = self._losses(self.average, batch)
        figures = {f"loss_{name}": float(loss) for name, loss in found.items()}
        one_pass: Tensor | None = None
        body = self.data.embodiment
        for bands in BANDS_PER_STEP[:: len(BANDS_PER_STEP) - 1]:
            one_pass, status, slots = act(self.average, *batch[:4], bands)
            error = (one_pass - batch.commands).abs().mean((0, 1))
            for place in body.velocities:
                name = f"{body.command_names[place]}_error_{bands * len(body.commands)}"
                figures[name] = float(error[place])
            figures["status_right"] = _right(status, batch.status)
            for i, logits in enumerate(slots):
                name = self.average.config.slots[i][0]
                figures[f"{name}_right"] = _right(logits, batch.slots[:, i])
        assert one_pass is not None
        exchanged = batch.states.roll(1, 0), batch.mask.roll(1, 0)
        other = act(self.average, *exchanged, *batch[2:4], BANDS_PER_STEP[-1])[0]
        same = (other - one_pass)[..., body.velocities].abs().amax((1, 2)) < 0.05
        figures["ignored_words"] = float(same.float().mean())
        return figures

    def _new_model(self) -> Model:
        start = self.config.start
        if start is not None:
            restored = is_bundle(start)
            model = restore_model(start, self.config.model) if restored else load_model(start)
            if model.config.slots != self.data.slot_names:
                raise UserError(f"{start} knows other slots: start from another run")
            seen = self.data.embodiment.with_cameras(model.embodiment.cameras)
            if found := model.embodiment.difference(seen):
                raise UserError(f"{found} in the data than in {start}: start from another run")
            return model
        model = Model(replace(self.config.model, slots=self.data.slot_names), self.data.embodiment)
        rng = np.random.default_rng(self.config.seed)
        chosen = rng.permutation(self.data.n_labels)[:50_000]
        model.codec.fit(self.data.commands[chosen])
        mean, deviation = self.data.state_moments()
        model.state_encoder.mean.copy_(torch.from_numpy(mean))
        model.state_encoder.deviation.copy_(torch.from_numpy(deviation))
        return model

    def _losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        tokens = model.codec.encode(batch.commands)
        output = model(*batch[:4], tokens, batch.known)
        return losses(output, batch, model.codec, self.status_weights)

    def _draw_and_score(self, rng: np.random.Generator, progress: float) -> dict[str, Tensor]:
        """The losses of a batch, and of sentences without pictures where the data has some."""
        config, data = self.config, self.data
        looking = progress < config.perception_fraction
        draw = data.draw_named if looking else data.draw
        batch = self._blinded(draw(rng, config.batch_size, config.augmentation))
        found = self._looking(batch) if looking else self._losses(self.model, batch)
        if len(data.sentences):
            read = self._read(rng)
            found |= {"reading": read["reading"], "total": found["total"] + read["total"]}
        return found

    def _read(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss of sentences without pictures: nothing but the reading of words learns by it."""
        if not len(self.data.sentences):
            raise UserError("the data holds no sentences without pictures: collect it anew")
        config = self.config
        states, mask, classes = self.data.draw_sentences(
            rng, config.batch_size, config.augmentation
        )
        if config.no_text:
            states = torch.zeros_like(states)
        loss = slots_loss(self.model.read(states, mask)[1], classes)
        return {"reading": loss, "total": WEIGHTS["slots"] * loss}

    def _looking(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of instruction and image encoder alone."""
        word, slots = self.model.read(batch.states, batch.mask)
        return perception_losses(self.model.image_encoder.find(batch.image, word), slots, batch)

    def _blinded(self, batch: Batch) -> Batch:
        """The batch without what a baseline is not given."""
        if self.config.no_text:
            batch = batch._replace(states=torch.zeros_like(batch.states))
        if self.config.no_image:
            batch = batch._replace(image=torch.zeros_like(batch.image))
        return batch

    def _rate(self, progress: float) -> float:
        """Half a cosine (arXiv:1608.03983) to `final_rate`; a warm-up wherever weights join in."""
        since = progress - self.config.perception_fraction
        since = progress if since < 0 else since
        warm = min(1.0, 0.01 + since / max(self.config.warmup_share, 1e-9))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        low = self.config.final_rate
        return self.config.learning_rate * warm * (low + (1 - low) * cosine)

    def _count_experts(self, rebalance: bool) -> None:
        for layer, mixture in enumerate(mixtures(self.model)):
            self.expert_use[layer] += mixture.expert_use
            if rebalance:
                mixture.rebalance(mixture.expert_use, self.config.balance_rate)
            mixture.expert_use.zero_()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average is short, or it would remember the random start; as in TensorFlow's
        # ExponentialMovingAverage.
        weight = 1 - min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        averages = [average.detach() for average in self.average.parameters()]
        values = [value.detach() for value in self.model.parameters()]
        torch._foreach_lerp_(averages, values, weight)
        for average, value in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(value)


def train(
    data: list[Path], run: Path, encode: Encode, config: TrainConfig, encoder_id: str = ""
) -> Path:
    """Trains on datasets until the configured end and returns the checkpoint.

    A run that has a checkpoint goes on from it, with the same options but for those of `FREE`:
    UserError for others. `encoder_id` names what `encode` does, for its cache.
    """
    from torch.utils.tensorboard import SummaryWriter

    check_ranges(config)
    options, resumed = {"data": data, **asdict(config)}, (run / CHECKPOINT_FILE).is_file()
    if resumed:
        _check_same(run, options)
    check_writable(run)
    torch.set_num_threads(config.threads)
    demonstrations = load_demonstrations(data, encode, run / "words.npz", encoder_id=encoder_id)
    trainer = Trainer(config, demonstrations, run)
    if not resumed:
        model = trainer.model.config.to_dict()
        write_json(run / "config.json", plain(options | {"model": model}))
    last_saved = trainer.elapsed_s
    # What was written after the checkpoint is written again; the checkpoint's own step is not.
    writer = SummaryWriter(str(run), purge_step=trainer.step + 1)
    try:
        with _progress_bar(trainer) as show:
            while trainer.progress < 1:
                found = trainer.train_step()
                if trainer.step % config.log_steps == 0:
                    _log(writer, trainer, found)
                    show(float(found["total"]))
                if trainer.step % config.evaluate_steps == 0:
                    _log_figures(writer, trainer)
                if trainer.elapsed_s - last_saved > 60 * config.checkpoint_minutes:
                    trainer.save()
                    last_saved = trainer.elapsed_s
    finally:
        trainer.save()
        writer.close()
    write_json(run / "evaluation.json", {"on": trainer.judged_on, **trainer.evaluate(1024)})
    return run / CHECKPOINT_FILE


def _check_same(run: Path, options: dict[str, Any]) -> None:
    """UserError for options other than those with which a run was begun, by name."""
    free = {*FREE, "model.slots"} if options["start"] is None else {*FREE, "model"}
    if differ := differences(run / "config.json", plain(options), free):
        raise UserError(
            f"{run} holds a run with another {', '.join(differ)}: give that, or another --out, to"
            f" which --start {run} brings its weights"
        )


def _groups(model: Model, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices alone: norms, biases and positions keep their size."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _right(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(-1) == classes).float().mean())


def _log(writer: Any, trainer: Trainer, found: dict[str, Tensor]) -> None:
    for name, loss in found.items():
        writer.add_scalar(f"train/{name}", float(loss), trainer.step)
    writer.add_scalar("train/learning_rate", trainer.optimizer.param_groups[0]["lr"], trainer.step)
    for layer, use in enumerate(trainer.expert_use):
        busiest = float(use.max() / use.mean().clamp(min=1))
        writer.add_scalar(f"experts/busiest_over_mean_{layer}", busiest, trainer.step)
    trainer.expert_use.zero_()


def _log_figures(writer: Any, trainer: Trainer) -> None:
    for name, value in trainer.evaluate().items():
        writer.add_scalar(f"{trainer.judged_on}/{name}", value, trainer.step)


@contextmanager
def _progress_bar(trainer: Trainer) -> Iterator[Callable[[float], None]]:
    """A line with time left, speed and loss; yields the function that brings it up to date."""
    columns = (
        TextColumn("train"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % {task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    first_step, started = trainer.step, time.perf_counter()
    with Progress(*columns) as bar:
        task = bar.add_task("train", total=1.0, told="")

        def show(loss: float) -> None:
            samples = (trainer.step - first_step) * trainer.config.batch_size
            speed = samples / (time.perf_counter() - started)
            told = f"step {trainer.step}, {speed:.0f} samples/s, loss {loss:.3f}"
            bar.update(task, completed=trainer.progress, told=told)

        yield show
