"""The trainer: torch, torchvision, torchmetrics and accelerate put together for classifiers."""

import csv
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric, MinMetric
from torchvision.transforms import v2
from tqdm import tqdm

from era_rl.core import categorical_entropy
from era_rl.devices import resolved_device
from era_rl.runs.folder import FolderError, in_one_piece, locked, save_state
from era_vision import checkpoint
from era_vision.augment import InGroups, Normalise, batch_views
from era_vision.config import Config
from era_vision.data import Data, Images, check_labels, evaluation_order, loader, training_order
from era_vision.head import ERAClassifier, ERAHead, last_layer
from era_vision.metrics import Row, evaluate
from era_vision.models import check_fit, freeze_features, head_of, model_of
from era_vision.objective import averaged, build_optimizer, mixing, view_loss, warmup_cosine
from era_vision.sources import load_data

FLOOR_TOLERANCE = 1e-5
"""Nats by which float32 may miss the floor."""


class Trainer:
    """Trains a classifier as a :class:`Config` says; :meth:`fit` returns the metrics of every epoch.

    ``out`` gets last.pt, best.pt (the highest test accuracy), metrics.csv and tensorboard/. Under
    ``torchrun`` or ``accelerate launch`` each global batch is divided among the processes.

    Args:
        config: The settings.
        data: A data set in the place of the one that ``config.data`` names.

    Raises:
        ValueError: If the floor is infeasible for the data's classes, or settings and device, data,
            model or checkpoint do not fit.
    """

    def __init__(self, config: Config, data: Data | None = None) -> None:
        self.config = config
        self.processes = PartialState(cpu=config.device == "cpu")
        shared = self.processes.device if self.processes.num_processes > 1 else None
        self.device = shared or torch.device(resolved_device(config.device))
        if config.precision == "fp16" and self.device.type == "cpu":
            raise ValueError(
                "precision='fp16' needs an accelerator, and there is only the CPU: take 'bf16' or 'no'"
            )
        set_seed(config.seed)
        self.data = (data or load_data(config)).to(self.device)
        self.num_classes = len(self.data.classes)
        self.model = model_of(config, self.num_classes, self.data.image_size).to(self.device)
        check_fit(self.model, self.data.image_size)
        self.head = self.build_head()
        self._prepare_batches()
        self._prepare_model()
        self.epoch = 0
        self.history: list[Row] = []
        if config.resume and self.last.is_file():
            self._restore(checkpoint.load(self.last))

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return Path(self.config.out) / "last.pt"

    def build_head(self) -> ERAHead | None:
        """Return the head; override it to train another one."""
        return head_of(self.config, self.num_classes)

    def _prepare_batches(self) -> None:
        config, data = self.config, self.data
        self.normalise = Normalise(data.mean, data.std).to(self.device)
        square = (data.image_size, data.image_size)
        shape = data.train.images.shape[-2:] if isinstance(data.train, Images) else square
        self.views = batch_views(config, *shape)
        self.erase = InGroups(v2.RandomErasing(config.erase), config.group)
        self.mix = mixing(config, self.num_classes)
        share = {"rank": self.processes.process_index, "world": self.processes.num_processes}
        self.order = training_order(
            len(data.train), config.batch_size, shuffle=config.shuffle, seed=config.seed, **share
        )
        self.batches = loader(data.train, self.order, config.workers)
        order = evaluation_order(len(data.test), max(config.batch_size, 256), **share)
        self.test_batches = loader(data.test, order, config.workers)

    def _prepare_model(self) -> None:
        config = self.config
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        distributed = self.processes.num_processes > 1
        if config.norm == "sync" and distributed:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if config.freeze:
            freeze_features(self.model)
        steps = len(self.order)
        self.average = averaged(self.model, config.ema, config.epochs * steps)
        self.network = self.model if self.head is None else ERAClassifier(self.model, self.head)
        self.network.to(self.device)
        if config.compile:
            self.network.compile()
        if distributed:
            devices = None if self.device.type == "cpu" else [self.device]
            self.network = DistributedDataParallel(self.network, device_ids=devices)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        factor = warmup_cosine(round(config.warmup_epochs * steps), config.epochs * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def fit(self) -> list[Row]:
        """Train up to ``config.epochs`` and return one row of metrics an epoch.

        Raises:
            ValueError: If ``out`` cannot be written to, another process works in it, or it holds a run
                that this one does not go on with.
        """
        with locked(self.config.out) if self.processes.is_main_process else nullcontext():
            return self._fit()

    def _fit(self) -> list[Row]:
        out, main = self.config.out, self.processes.is_main_process
        if main and self.epoch == 0 and self.last.is_file():
            raise FolderError(f"out={out!r} holds a run: resume it, or take another folder")
        events = partial(SummaryWriter, f"{out}/tensorboard", purge_step=self.epoch + 1)
        with events() if main else nullcontext() as writer:
            while self.epoch < self.config.epochs:
                row = {"epoch": self.epoch + 1, **self.train_epoch(), **self.evaluate()}
                self.epoch += 1
                self.history.append(row)
                if writer is not None:
                    for name, value in row.items():
                        writer.add_scalar(name, value, self.epoch)
                    self._save()
                    self._tell(row)
        self.processes.wait_for_everyone()
        return self.history

    def train_epoch(self) -> Row:
        """Run one epoch and return its loss, least and mean entropy, learning rate and speed.

        Raises:
            FloatingPointError: If the loss stopped being finite or an entropy fell below the floor.
        """
        start = time.perf_counter()
        # a seed an epoch makes resuming exact without saving generators
        rank, world = self.processes.process_index, self.processes.num_processes
        torch.manual_seed(self.config.seed + 10_007 * (1 + self.epoch * world + rank))
        self.order.sampler.set_epoch(self.epoch)  # pyright: ignore[reportAttributeAccessIssue]
        self.network.train()
        if self.config.freeze:  # batch norm's statistics stay as they are, too
            self.model.eval()
            last_layer(self.model)[1].train()
        # "disable": NaN shows in the result, and the device is not waited for in every step
        kinds = {"loss": MeanMetric, "entropy_mean": MeanMetric, "entropy_min": MinMetric}
        meters = [kind(nan_strategy="disable").to(self.device) for kind in kinds.values()]
        hidden = not (self.config.progress and self.processes.is_main_process) or None
        bar = tqdm(self.batches, f"epoch {self.epoch + 1}", leave=False, disable=hidden)
        for images, labels in bar:
            loss, logits = self.step(images.to(self.device), labels.to(self.device))
            entropy = categorical_entropy(logits)
            for meter, value in zip(meters, (loss, entropy, entropy), strict=True):
                meter.update(value)
        row = {f"train_{n}": m.compute().item() for n, m in zip(kinds, meters, strict=True)}
        row["lr"] = float(self.schedule.get_last_lr()[0])
        self._check(row)
        images_seen = len(self.order) * self.config.batch_size
        return {**row, "images_per_second": images_seen / (time.perf_counter() - start)}

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one optimizer step and return the loss and the logits it was computed from."""
        check_labels(labels)
        parts = list(zip(*(t.chunk(self.config.accumulate) for t in (images, labels)), strict=True))
        losses, logits = [], []
        for number, part in enumerate(parts, start=1):
            # processes share the gradients of the last part, with which those of all have been added
            alone = getattr(self.network, "no_sync", nullcontext)
            with alone() if number < len(parts) else nullcontext():
                loss, out = self._loss(*part)
                losses.append(loss * (len(part[1]) / len(labels)))
                self.scaler.scale(losses[-1]).backward()
            logits.append(out.detach())
        self._update()
        return torch.stack(losses).sum().detach(), torch.cat(logits)

    def augment(self, images: Tensor) -> Tensor:
        """Return training images, uint8 (B, C, H, W), as normalised (views B, C, H, W), view by view.

        A data set that reads files gives (B, views, C, H, W), cropped, flipped and with their policy.
        """
        images = self.views(images) if images.dim() == 4 else images.transpose(0, 1)
        images = self.normalise(images.flatten(0, 1))
        return self.erase(images) if self.config.erase else images

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        views = self.augment(images)
        if self.config.channels_last:
            views = views.contiguous(memory_format=torch.channels_last)
        views, targets = self.mix(views, labels)
        with self._autocast():
            logits = self.network(views).float()
        chosen = {"smoothing": self.config.smoothing, "jsd": self.config.jsd}
        return view_loss(logits.unflatten(0, (-1, len(labels))), targets, **chosen), logits

    def _update(self) -> None:
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        # lowered where gradients overflowed, so that there was no step
        if self.scaler.get_scale() >= scale:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def evaluate(self) -> Row:
        """Return the metrics of :func:`evaluate` on the test set.

        With ``ema`` they are the averaged weights'; unaveraged_top1 and unaveraged_nll are the others'.
        """
        # batch norm's statistics are each process's own until the next step
        broadcast(list(self.model.buffers()))
        if self.average is None:
            return self._measure(self.model)
        broadcast(list(self.average.module.buffers()))
        plain = self._measure(self.model)
        kept = {f"unaveraged_{name}": plain[name] for name in ("top1", "nll")}
        return {**self._measure(self.average.module), **kept}

    def _measure(self, model: nn.Module) -> Row:
        with self._autocast():
            return evaluate(model, self.head, self.test_batches, self.num_classes, self.normalise)

    def _check(self, row: Row) -> None:
        where = f"in epoch {self.epoch + 1}; {self.last} keeps the epochs before"
        if not math.isfinite(row["train_loss"]):
            raise FloatingPointError(
                f"the loss is {row['train_loss']} {where}: lower lr={self.config.lr}, set clip, or look"
                " for NaN in the images"
            )
        floor = self.config.target_entropy - FLOOR_TOLERANCE
        if isinstance(self.head, ERAHead) and row["train_entropy_min"] < floor:
            raise FloatingPointError(f"entropy {row['train_entropy_min']} is below {floor} {where}")

    def _save(self) -> None:
        evaluated = self.model if self.average is None else self.average.module
        state = {
            "config": asdict(self.config),
            "processes": self.processes.num_processes,
            "classes": self.data.classes,
            "mean": self.data.mean,
            "std": self.data.std,
            "image_size": self.data.image_size,
            "history": self.history,
            "weights": evaluated.state_dict(),
        }
        # the best first: killed after it, the run repeats this epoch, and else it would be lost
        if self.history[-1]["top1"] >= max(row["top1"] for row in self.history):
            save_state(self.last.with_name("best.pt"), state)
        resume = {name: part.state_dict() for name, part in self._parts().items()}
        save_state(self.last, {**state, "resume": resume})
        table = self.last.with_name("metrics.csv")
        with in_one_piece(table) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.history[-1].keys())
            writer.writeheader()
            writer.writerows(self.history)

    def _tell(self, row: Row) -> None:
        """Write a line on stderr: stdout is the command's, for its JSON."""
        if self.config.progress:
            sys.stderr.write(
                f"epoch {self.epoch} of {self.config.epochs}: top-1 {row['top1']:.1%}, "
                f"loss {row['train_loss']:.3f}, lowest entropy {row['train_entropy_min']:.3f}, "
                f"{row['images_per_second']:.0f} images a second, to {self.config.out}\n"
            )

    def _parts(self) -> dict[str, Any]:
        average = {} if self.average is None else {"average": self.average}
        names = ("model", "optimizer", "schedule", "scaler")
        return {name: getattr(self, name) for name in names} | average

    def _restore(self, state: dict[str, Any]) -> None:
        # each process draws its own augmentation, so that their number is a setting too
        saved = {**state["config"], "processes": state.get("processes")}
        self.config.check_resumes(saved, self.last, processes=self.processes.num_processes)
        self.history, self.epoch = state["history"], len(state["history"])
        if "resume" not in state:
            raise ValueError(
                f"checkpoint={str(self.last)!r} has weights alone: no run can go on from it"
            )
        if self.epoch > self.config.epochs:
            raise ValueError(
                f"epochs={self.config.epochs} must be at least the {self.epoch} that"
                f" {str(self.last)!r} has done"
            )
        # older runs did not normalise as pretrained weights were
        self.data = replace(self.data, mean=state["mean"], std=state["std"])
        self.normalise = Normalise(state["mean"], state["std"]).to(self.device)
        for name, part in self._parts().items():
            part.load_state_dict(state["resume"][name])
        # the rate of this step, which another number of epochs changes
        factor = self.schedule.lr_lambdas[0](self.schedule.last_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
