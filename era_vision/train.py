"""The trainer: torch, torchvision, torchmetrics and accelerate put together for classifiers."""

import csv
import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric, MinMetric
from tqdm import tqdm

from era_rl.core import categorical_entropy
from era_rl.runs.folder import in_one_piece, locked
from era_vision import checkpoint
from era_vision.augment import BatchAugment, Normalise
from era_vision.config import Config
from era_vision.data import Batches, Data, loader
from era_vision.head import ERAClassifier, ERAHead
from era_vision.metrics import Row, evaluate
from era_vision.models import build_model
from era_vision.objective import build_optimizer, mixing, view_loss, warmup_cosine
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
        ValueError: If the floor is infeasible for the data's classes, or settings and device, data or
            checkpoint do not fit.
    """

    def __init__(self, config: Config, data: Data | None = None) -> None:
        self.config = config
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=config.cpu)
        if config.precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError(
                "precision='fp16' needs an accelerator, and there is only the CPU: take 'bf16' or 'no'"
            )
        set_seed(config.seed)
        self.data = (data or load_data(config)).to(self.accelerator.device)
        self.num_classes = len(self.data.classes)
        self.model = model_of(config, self.num_classes).to(self.accelerator.device)
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
        config, accelerator, data = self.config, self.accelerator, self.data
        self.normalise = Normalise(data.mean, data.std).to(accelerator.device)
        self.augment = BatchAugment(
            self.normalise,
            crop=config.crop,
            flip=config.flip,
            policy=config.policy,
            erase=config.erase,
            views=config.views,
        )
        self.mix = mixing(config, self.num_classes)
        share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        self.order = Batches(
            len(data.train),
            config.batch_size,
            shuffle=config.shuffle,
            drop_last=True,
            seed=config.seed,
            **share,
        )
        self.batches = loader(data.train, self.order, config.workers)
        test_order = Batches(len(data.test), max(config.batch_size, 256), **share)
        self.test_batches = loader(data.test, test_order, config.workers)

    def _prepare_model(self) -> None:
        config = self.config
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if config.norm == "sync" and self.accelerator.num_processes > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.average = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        network = self.model if self.head is None else ERAClassifier(self.model, self.head)
        if config.compile:
            network.compile()
        optimizer = build_optimizer(self.model, config)
        steps = len(self.order)
        factor = warmup_cosine(round(config.warmup_epochs * steps), config.epochs * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)

    def fit(self) -> list[Row]:
        """Train up to ``config.epochs`` and return one row of metrics an epoch.

        Raises:
            ValueError: If ``out`` cannot be written to, or another process works in it.
        """
        with locked(self.config.out) if self.accelerator.is_main_process else nullcontext():
            return self._fit()

    def _fit(self) -> list[Row]:
        writer = None
        if self.accelerator.is_main_process:
            writer = SummaryWriter(f"{self.config.out}/tensorboard", purge_step=self.epoch + 1)
        while self.epoch < self.config.epochs:
            row = {"epoch": self.epoch + 1, **self.train_epoch(), **self.evaluate()}
            self.epoch += 1
            self.history.append(row)
            if writer is not None:
                for name, value in row.items():
                    writer.add_scalar(name, value, self.epoch)
                self._save()
        if writer is not None:
            writer.close()
        self.accelerator.wait_for_everyone()
        return self.history

    def train_epoch(self) -> Row:
        """Run one epoch and return its loss, least and mean entropy, learning rate and speed.

        Raises:
            FloatingPointError: If the loss stopped being finite or an entropy fell below the floor.
        """
        start = time.perf_counter()
        device = self.accelerator.device
        # a seed an epoch makes resuming exact without saving generators
        torch.manual_seed(self._epoch_seed())
        self.order.epoch = self.epoch
        self.network.train()
        # "disable": NaN shows in the result, and the device is not waited for in every step
        loss_mean, entropy_mean = (MeanMetric(nan_strategy="disable").to(device) for _ in range(2))
        entropy_min = MinMetric(nan_strategy="disable").to(device)
        hidden = not (self.config.progress and self.accelerator.is_main_process) or None
        bar = tqdm(self.batches, f"epoch {self.epoch + 1}", leave=False, disable=hidden)
        for images, labels in bar:
            loss, logits = self.step(images.to(device), labels.to(device))
            entropy = categorical_entropy(logits)
            loss_mean.update(loss)
            entropy_mean.update(entropy)
            entropy_min.update(entropy)
        row = {
            "train_loss": loss_mean.compute().item(),
            "train_entropy_mean": entropy_mean.compute().item(),
            "train_entropy_min": entropy_min.compute().item(),
            "lr": float(self.schedule.get_last_lr()[0]),
        }
        self._check(row)
        images_seen = len(self.order) * self.config.batch_size
        return {**row, "images_per_second": images_seen / (time.perf_counter() - start)}

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one optimizer step and return the loss and the logits it was computed from."""
        views = self.augment(images)
        if self.config.channels_last:
            views = views.contiguous(memory_format=torch.channels_last)
        views, targets = self.mix(views, labels)
        logits = self.network(views)
        loss = view_loss(
            logits.unflatten(0, (-1, len(labels))),
            targets,
            smoothing=self.config.smoothing,
            jsd=self.config.jsd,
        )
        self.accelerator.backward(loss)
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.optimizer.step_was_skipped:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach(), logits.detach()

    def evaluate(self) -> Row:
        """Return the metrics of :func:`evaluate` on the test set, of the averaged weights if any."""
        model = self.model if self.average is None else self.average.module
        # batch norm's statistics are each process's own until the next step
        broadcast(list(model.buffers()))
        with self.accelerator.autocast():
            return evaluate(model, self.head, self.test_batches, self.num_classes, self.normalise)

    def _epoch_seed(self) -> int:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return self.config.seed + 10_007 * (1 + self.epoch * world + rank)

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
            "processes": self.accelerator.num_processes,
            "classes": self.data.classes,
            "mean": self.data.mean,
            "std": self.data.std,
            "image_size": self.data.image_size,
            "history": self.history,
            "weights": evaluated.state_dict(),
        }
        # the best first: killed after it, the run repeats this epoch, and else it would be lost
        if self.history[-1]["top1"] >= max(row["top1"] for row in self.history):
            checkpoint.save(state, self.last.with_name("best.pt"))
        checkpoint.save({**state, "resume": self._progress()}, self.last)
        write_csv(self.history, self.last.with_name("metrics.csv"))

    def _progress(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        # each process draws its own augmentation, so that their number is a setting too
        saved = {**state["config"], "processes": state.get("processes")}
        asked = {**asdict(self.config), "processes": self.accelerator.num_processes}
        checkpoint.check_same(saved, asked, self.last)
        if "resume" not in state:
            raise ValueError(
                f"checkpoint={str(self.last)!r} has weights alone: no run can go on from it"
            )
        resume = state["resume"]
        self.model.load_state_dict(resume["model"])
        self.optimizer.load_state_dict(resume["optimizer"])
        self.schedule.load_state_dict(resume["schedule"])
        if self.average is not None:
            self.average.load_state_dict(resume["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(resume["scaler"])
        self.history = state["history"]
        self.epoch = len(self.history)


def model_of(config: Config, num_classes: int) -> nn.Module:
    """Return the bare model of a configuration."""
    return build_model(
        config.model,
        num_classes,
        stem=config.stem,
        norm=config.norm,
        dropout=config.dropout,
        pretrained=config.pretrained,
    )


def head_of(config: Config, num_classes: int) -> ERAHead | None:
    """Return the head of a configuration, None for ``head="none"``."""
    if config.head == "none":
        return None
    return ERAHead(num_classes, config.target_entropy, tau=config.tau, method=config.method)


def write_csv(rows: list[Row], path: Path) -> None:
    """Write the rows in one piece: a reader never sees half a file."""
    with in_one_piece(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
