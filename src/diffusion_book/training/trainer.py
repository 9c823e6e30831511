"""A run that can be killed at any moment and ends with the same weights (chapter 11).

Nothing random is kept between steps. Which images a step sees, and its times and noise, follow from the seed and the
number of the step alone; so does its learning rate. What a checkpoint must hold is then only what training changes:
the weights, their average, the optimiser's two moments, what the objective itself learns and, in float16, the scale of
the loss. And since every process
draws the whole batch and takes its share, two processes see what one would have seen. Only batch norm and dropout ask
into how many pieces a batch is cut: with them a run goes on in as many as it began with.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_book._files import expanded, locked, write_whole
from diffusion_book._memory import room_for
from diffusion_book.data import Examples
from diffusion_book.data.augment import flip_half
from diffusion_book.training import checkpoint
from diffusion_book.training.checkpoint import CheckpointError, flatten, unflatten
from diffusion_book.training.config import RunConfig, build_data, build_network, build_objective
from diffusion_book.training.ema import EMA
from diffusion_book.training.estimate import Estimate
from diffusion_book.training.fine_tune import check_start, start_from
from diffusion_book.training.log import LossByTime
from diffusion_book.training.loop import TrainConfig, warm_up_then_cosine
from diffusion_book.training.memory import ladder
from diffusion_book.training.objectives import Batch, Objective, learning, to_device
from diffusion_book.training.order import batch_index, own_randomness, seed_of, sees_pieces
from diffusion_book.training.precision import autocast, resolve, step_scaled
from diffusion_book.training.resume import cut_log, decides, go_on, new_cycle, same_everywhere
from diffusion_book.training.validation import HeldOut, build_held_out

Preview = Callable[[nn.Module, Path], None]


class Trainer:
    """One run: what it was told, where it stands, and the folder that it lives in.

    The folder holds `config.json`; `log.jsonl`, one line each `log_every` steps (and the same for TensorBoard under
    `tensorboard/`, where that is installed); `checkpoints/`; and `previews/`. Of several processes the first writes it
    and all read it when a run goes on: machines need one that they share, or each a copy of it.

    Args:
        config: what to train; see `RunConfig`.
        folder: of the run.
        preview: called as preview(averaged network, path) to draw a picture, `preview_every` steps.
        data: instead of the data that the configuration names. held_out: the same, for what is not trained on.
            objective: instead of what the configuration names, made of the network.
        start: the network that the configuration's `start_from` names; `models.trainer_of` finds it. A run that goes
            on needs none.

    Raises:
        ValueError: the configuration does not fit the data, the device, the number of processes or `start`.
        CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path | str,
        preview: Preview | None = None,
        data: Examples | None = None,
        held_out: Examples | None = None,
        start: nn.Module | None = None,
        objective: Callable[[nn.Module], Objective] | None = None,
    ) -> None:
        from accelerate import Accelerator  # takes seconds to import

        self.config, self.folder, self.preview = config, expanded(folder), preview
        logger = "tensorboard" if importlib.util.find_spec("tensorboard") else None
        # Precision and accumulation are not left to it: what it holds of them, all Accelerators of a process share.
        self.accelerator = Accelerator(mixed_precision="no", log_with=logger, project_dir=str(self.folder))
        self.device: torch.device = self.accelerator.device
        self.precision = resolve(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        parts = self.accelerator.num_processes * config.accumulate
        if config.batch_size % parts:
            raise ValueError(
                f"batch_size = {config.batch_size} cannot be cut into {parts} equal parts "
                f"({self.accelerator.num_processes} processes × accumulate = {config.accumulate})"
            )
        self.data: Examples = build_data(config) if data is None else data
        with own_randomness(self.device):
            torch.manual_seed(seed_of(config.seed, "weights"))
            network = build_network(config, self.data)
        self.began = None if start is None else start_from(network, start, str(config.start_from))
        self.objective: Objective = objective(network) if objective else build_objective(config, network)
        self.learning = learning(self.objective, self.accelerator.num_processes)
        self.sees_pieces = sees_pieces(network, config.batch_size // parts) or self.learning is not None
        measured = build_held_out(config, self.data) if held_out is None else held_out
        self.held_out = None if measured is None else HeldOut(measured, self.objective, config.seed)
        self.ema = EMA(network.to(self.device), config.ema_decay)
        optimiser = torch.optim.AdamW(
            network.parameters(),
            config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.network, self.optimiser = self.accelerator.prepare(network, optimiser)
        self.step = 0
        self.losses = LossByTime(self.device, self.objective.T)

    def run(self, resume: bool = False) -> nn.Module:
        """Train to the last step → the averaged network.

        Args:
            resume: go on from the newest checkpoint, where there is one; with more steps than before, for longer.

        Raises:
            CheckpointError: there are checkpoints and resume is not said; or the newest is damaged, or of a run with
                another configuration; or not all processes find the same; or another run is going on in the folder.
            FloatingPointError: the loss or its gradient became NaN or infinite; no checkpoint of that is written.
            ValueError: a step does not fit into memory; the message says what to change, in the order of what it costs.

        Warns:
            UserWarning: there is no checkpoint to resume from; or where its learning rate or its weights begin anew.
        """
        with self._alone():
            self._start(resume)
            self._train()
        self.accelerator.end_training()
        return self.ema.network

    def _train(self) -> None:
        self.network.train()
        self._since = time.perf_counter()
        bar = {"total": self.config.steps, "initial": self.step, "desc": self.folder.name, "mininterval": 1}
        estimate, first = Estimate(self.device, self.config.steps), self.accelerator.is_main_process
        room = room_for(
            f"training on {self._piece} pictures at a time",
            ladder(self.config, self.accelerator.num_processes, self.precision),
        )
        with tqdm(**bar, disable=not first) as progress, own_randomness(self.device), room:
            while self.step < self.config.steps:
                grad_norm = self._train_step()
                self.step += 1
                progress.update()
                if (told := estimate.after(self.step)) and first:
                    progress.write(told)
                if self._due(self.config.log_every) or self._measures():
                    progress.set_postfix(loss=f"{self._log(grad_norm):.4f}", refresh=False)
                if self._due(self.config.preview_every):
                    self._draw_preview()
                if self._due(self.config.checkpoint_every) or self.step in self.config.keep_steps:
                    self._save(grad_norm)

    def _train_step(self) -> Tensor | None:
        """One step of the optimiser, on the batch of this number → the gradient's norm.

        None where the scaler left the step out: its scale was too high, and that it mends itself. Below 1 the fault is
        the gradient's, which is then handed on as it is.
        """
        torch.manual_seed(seed_of(self.config.seed, "dropout", self.step, self.accelerator.process_index))
        if self.step in self.config.cycles:
            self._begin_cycle()
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * self._rate()
        for piece, batch in enumerate(self._shares(self._batch()), start=1):
            last = piece == self.config.accumulate  # only then do processes add up their gradients
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                with autocast(self.precision, self.device):
                    loss = self.objective.loss(self.network, batch)
                self.scaler.scale(loss.mean() / self.config.accumulate).backward()
            self.losses.add(loss.detach(), batch.get("t"))
        self.scaler.unscale_(self.optimiser)
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        stepped = step_scaled(self.optimiser, self.scaler)  # or not, on all processes: they have the same gradients
        self.optimiser.zero_grad()
        if stepped:
            # Steps that were left out count, as they do for the learning rate.
            self.ema.updates = self.step - self.config.cycle(self.step).start
            self.ema.update(self.accelerator.unwrap_model(self.network))
        if self.learning:
            self.learning.step()
        return grad_norm if stepped or self.scaler.get_scale() < 1 else None

    def _begin_cycle(self) -> None:
        """From the average, with the moments of nothing: what a new run would do that is given these weights."""
        self.accelerator.unwrap_model(self.network).load_state_dict(self.ema.network.state_dict())
        self.optimiser.state.clear()

    def _batch(self) -> Batch:
        """The whole batch of this step, the same on every process."""
        index = batch_index(len(self.data), self.config.batch_size, self.step, self.config.seed)
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, "batch", self.step))
        x0, conditions = self.data.take(index)
        return self.objective.draw(flip_half(x0, generator) if self.config.flip else x0, conditions, generator)

    def _shares(self, batch: Batch) -> Iterator[Batch]:
        """This process's part of a batch, in `accumulate` pieces, where the network is; times stay on the CPU."""
        size = self._piece
        for piece in range(self.config.accumulate):
            start = (self.accelerator.process_index * self.config.accumulate + piece) * size
            yield to_device({name: values[start : start + size] for name, values in batch.items()}, self.device)

    @property
    def _piece(self) -> int:
        """Examples that go through the network together."""
        return self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate)

    def _rate(self) -> float:
        cycle, warmup = self.config.cycle(self.step), self.config.warmup
        step = self.step - cycle.start
        if self.config.decay == "none":
            return min(1.0, (step + 1) / max(1, warmup))
        return warm_up_then_cosine(step, TrainConfig(steps=len(cycle), warmup=warmup))

    def _measures(self) -> bool:
        """Whether the loss on the held-out pictures is due."""
        return self.held_out is not None and self._due(self.config.held_out_every)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _log(self, grad_norm: Tensor | None) -> float:
        """Write a line of the log → the mean loss since the last one."""
        total, count = self._sums()
        loss = float(total.sum() / count.sum())
        self._check_finite(loss=loss, gradient=grad_norm)
        elapsed = time.perf_counter() - self._since
        values: dict[str, Any] = {
            "loss": loss,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "grad_norm": None if grad_norm is None else float(grad_norm),
            "images": self.step * self.config.batch_size,
            "images_per_second": float(count.sum()) / elapsed,
        }
        values |= self._held_out_loss()
        by_time = [float(s / n) if n else None for s, n in zip(total, count)] if self.losses.T else []
        parts = {f"loss_by_time/{i}": value for i, value in enumerate(by_time) if value is not None}
        with self.writing():
            if self.accelerator.is_main_process:
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": self.step, **values, "loss_by_time": by_time}) + "\n")
            self.accelerator.log({**values, **parts}, step=self.step)
        self.losses.reset()
        self._since = time.perf_counter()
        return loss

    def _held_out_loss(self) -> dict[str, float]:
        """Of the averaged network, where it is due; one process is enough."""
        if self.held_out is None or not self._measures() or not self.accelerator.is_main_process:
            return {}
        with autocast(self.precision, self.device):
            loss, error = self.held_out.loss(self.ema.network, self._piece, self.device)
        return {"held_out_loss": loss, "held_out_standard_error": error}

    def _sums(self) -> Tensor:
        """[2, BINS]: the sum and the number of losses since the last line of the log, over all processes."""
        sums = self.losses.read()
        if self.accelerator.num_processes == 1:  # nothing to add, and not every device has float64
            return sums
        return self.accelerator.reduce(sums.to(self.device), "sum").cpu()

    def _check_finite(self, **found: float | Tensor | None) -> None:
        for name, value in found.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} became {float(value)} before step {self.step}; lower learning_rate or use "
                    f"precision = 'fp32'; {self._last_good()}"
                )

    def _last_good(self) -> str:
        last = checkpoint.latest(self.folder / "checkpoints")
        return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Where a full disk or a read-only folder is told as such."""
        try:
            yield
        except OSError as error:
            reason = error.__cause__ or error  # of a file that is written whole: without its own advice
            raise checkpoint.no_room(f"{self.folder} cannot be written to", reason, self._last_good()) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Where this is the only run in its folder: another would take what is half written for a leftover."""
        with contextlib.ExitStack() as stack:
            if self.accelerator.is_main_process:
                with self.writing():
                    self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(self.folder))
                except BlockingIOError as error:
                    raise CheckpointError(
                        f"another process is training in {self.folder}; wait until it ends, or take another folder"
                    ) from error
            yield

    def _start(self, resume: bool) -> None:
        """Make the folder, or go on from what it holds."""
        folder = self.folder / "checkpoints"
        if not checkpoint.latest(folder):
            check_start(self.config.start_from, self.began)
        with self.writing():
            if self.accelerator.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                checkpoint.remove_unfinished(folder)
                newest = checkpoint.latest(folder)
                if newest and not resume:
                    raise CheckpointError(
                        f"{self.folder} holds a run that reached step {checkpoint.step_of(newest)}; "
                        "go on with it by --resume, or give another folder"
                    )
                if resume and not newest:
                    warnings.warn(
                        f"there is no checkpoint in {self.folder} to go on from; the run starts anew", stacklevel=3
                    )
            self.accelerator.wait_for_everyone()
            newest = checkpoint.latest(folder)
            same_everywhere(newest, self.folder)
            if newest:
                self.config = go_on(self.folder, self.config)
                self._load(newest)
            if self.accelerator.is_main_process:
                write_whole(self.folder / "config.json", self.config.to_dict())
                log = self.folder / "log.jsonl"
                write_whole(log, cut_log(log, self.step).encode())
                if told := new_cycle(self.config, self.step) if newest else self.began:
                    warnings.warn(f"{self.folder} {told}", stacklevel=3)
            self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": self.step + 1}})

    def _draw_preview(self) -> None:
        if self.preview and self.accelerator.is_main_process:
            path = self.folder / "previews" / f"{checkpoint.name_of(self.step)}.png"
            with self.writing():
                path.parent.mkdir(exist_ok=True)
                self.preview(self.ema.network, path)

    def _save(self, grad_norm: Tensor | None) -> None:
        """Write a checkpoint. The sums of the log belong to it, so that the log, too, is the same."""
        sums = self._sums()
        self._check_finite(loss=float(sums[0].sum()), gradient=grad_norm)
        network = self.accelerator.unwrap_model(self.network)
        if self.accelerator.is_main_process:
            parts = {
                "network": dict(network.state_dict()),
                "ema": dict(self.ema.network.state_dict()),
                "optimiser": flatten(self.optimiser.state_dict()),
                "log": {"sums": sums},
            }
            if self.learning:
                parts["objective"] = self.learning.state()
            if self.scaler.is_enabled():
                parts["scaler"] = {name: torch.tensor(value) for name, value in self.scaler.state_dict().items()}
            folder = self.folder / "checkpoints"
            checkpoint.save(folder, self.step, parts, self.config.keep, self.config.keep_steps, self._origin(self.step))
        self.accelerator.wait_for_everyone()

    def _origin(self, step: int) -> dict[str, str]:
        """All that decides the weights of a step: the configuration, the images with their conditions, the pieces."""
        decided = json.dumps(decides(self.config, step), sort_keys=True).encode()
        origin = {"configuration": hashlib.sha256(decided).hexdigest(), "images": self._images}
        if self.sees_pieces:
            origin["processes × accumulate"] = f"{self.accelerator.num_processes} × {self.config.accumulate}"
        return origin

    @functools.cached_property
    def _images(self) -> str:
        return f"{len(self.data)} with SHA-256 {self.data.sha256}"

    def _load(self, path: Path) -> None:
        origin = self._origin(checkpoint.step_of(path))
        for what, theirs in checkpoint.origin(path).items():
            if theirs != origin.get(what):
                raise CheckpointError(
                    f"{path} belongs to a run with other {what} ({theirs:.30}…, now {origin.get(what)!s:.30}…); "
                    "go on with what it was begun with, or give another folder"
                )
        step, parts = checkpoint.load(path)
        try:
            self.accelerator.unwrap_model(self.network).load_state_dict(parts["network"])
            self.ema.network.load_state_dict(parts["ema"])
            self.optimiser.load_state_dict(unflatten(parts["optimiser"], self.optimiser.state_dict()))
            if self.learning:
                self.learning.load(parts["objective"])
            sums = parts["log"]["sums"]
            if self.scaler.is_enabled() and "scaler" in parts:  # begun on another GPU there may be none
                self.scaler.load_state_dict({name: value.item() for name, value in parts["scaler"].items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} is of another network, or not of a run: {error}") from error
        self.step = self.ema.updates = step
        if self.accelerator.is_main_process:  # the sums are of all processes
            self.losses.reset(sums)
