"""Train and predict with mmseg and mmdet: config with the student as backbone, training with resume, predictions."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.kinds import KINDS
from kdep_benchmarks.openmmlab import compat
from kdep_benchmarks.openmmlab.backbones import DEPTHS, DILATIONS, backbone_config
from kdep_benchmarks.tasks.settings import Dense, config_file
from kdep_benchmarks.tasks.task import Task
from kdep_benchmarks.tasks.training_state import LAST, forget_others

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

# mmcv turns an image by its EXIF orientation tag by default. kdep's readers do not, and boxes and masks are not turned.
LOAD_IMAGE = {"type": "LoadImageFromFile", "color_type": "color_ignore_orientation"}


class Training(NamedTuple):
    """One measurement: who, what, with which seed, where and on what."""

    checkpoint: Checkpoint
    task: Task
    settings: Dense
    seed: int
    work_dir: Path
    device: torch.device

    @property
    def last(self) -> Path:
        """The training checkpoint from which an interrupted run resumes."""
        return self.work_dir / LAST


class Trained(NamedTuple):
    """A trained model, and what was recorded in training."""

    model: "nn.Module"
    train_images: int
    load: dict[str, Any]
    curves: dict[str, Any]
    cost: dict[str, Any]


def read_config(cell: Training, *, toolbox: str) -> "Config":
    """Read the task's mmengine config and put the student into it: backbone, input normalisation, optimizer.

    Raises:
        ValueError: the config does not exist, or belongs to another toolbox.
    """
    compat.prepare()
    from mmengine.config import Config

    path = config_file(cell.settings.kind, cell.settings.config)
    # Formatting its text takes longer than a short training, and mmengine writes it four times.
    config = Config(Config.fromfile(path).to_dict(), filename=path, format_python_code=False)
    if config.get("default_scope") != toolbox:
        raise ValueError(f"{path}: a config of {config.get('default_scope')}; {cell.task.kind} needs one of {toolbox}")
    _set_backbone(config, cell, toolbox)
    # The toolboxes' images are 0..255. The normalisation must be the student's.
    mean, std = ([255 * value for value in values] for values in (cell.checkpoint.mean, cell.checkpoint.std))
    config.model.data_preprocessor.update(mean=mean, std=std, bgr_to_rgb=True)
    config.optim_wrapper = _optimizer(cell.settings)
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": cell.settings.passes}
    return config


def _set_backbone(config: "Config", cell: Training, toolbox: str) -> None:
    arch, theirs = cell.checkpoint.arch, config.model.backbone
    stride = cell.settings.output_stride if toolbox == "mmseg" else 32
    own = backbone_config(arch, toolbox, output_stride=stride)
    if config.model.get("pretrained"):  # would be downloaded, and the student loaded over it
        config.model.pretrained = None
    if arch in DEPTHS and "ResNet" in theirs.type:
        # Keep the file's ResNet and its options. A wrong kind, such as ResNetV1c, fails the load check. But a stem and
        # BatchNorm that stay as they are would cripple a random network, and networks of other kinds train theirs.
        theirs.update(depth=DEPTHS[arch], frozen_stages=-1, norm_eval=False, init_cfg=None)
        theirs.setdefault("norm_cfg", own["norm_cfg"]).requires_grad = True
        theirs.update(DILATIONS["ResNet"][stride])
        return
    if "norm_cfg" in own and "norm_cfg" in theirs:
        own["norm_cfg"] = {**theirs.norm_cfg, "requires_grad": True}
    config.model.backbone = own


def _optimizer(settings: Dense) -> dict[str, Any]:
    factor = settings.head_lr_factor
    # mmengine multiplies the lr of parameters whose names contain a key; of several keys the longest counts.
    multiples = {"backbone": 1.0, "head": factor, "neck": factor}
    keys = {name: {"lr_mult": multiple} for name, multiple in multiples.items()}
    return {
        "type": "AmpOptimWrapper" if settings.amp else "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": settings.lr, "momentum": 0.9, "weight_decay": settings.weight_decay},
        "clip_grad": {"max_norm": settings.clip_grad} if settings.clip_grad else None,
        "accumulative_counts": settings.accumulate,
        "paramwise_cfg": {"custom_keys": keys} if factor != 1 else None,
    }


def as_list(heads: Any) -> list[Any]:
    """The heads of a config, which has one, a list of them, or none."""
    return heads if isinstance(heads, list) else [heads] if heads else []


def loader(dataset: dict[str, Any], settings: Dense, *, train: bool) -> dict[str, Any]:
    """Configure a data loader: endless shuffled batches for training, or every image once, one by one, for test."""
    return {
        "batch_size": settings.batch_size if train else 1,
        "num_workers": settings.workers,
        "persistent_workers": False,
        "sampler": {"type": "InfiniteSampler", "shuffle": True}
        if train
        else {"type": "DefaultSampler", "shuffle": False},
        "dataset": dataset,
    }


def train(config: "Config", cell: Training) -> Trained:
    """Train to the last iteration; resume an interrupted run of the same cell.

    Raises:
        LoadError: the student's weights do not fit the backbone, or its feature maps differ from the student's, or a
            frozen backbone does not hold them any more.
        FloatingPointError: the loss is not finite.
    """
    import mmengine.device.utils
    from mmengine.runner import Runner

    from kdep_benchmarks.openmmlab.frozen import StayFrozen, freeze
    from kdep_benchmarks.openmmlab.hooks import KeepLast, LoadExactly, TellProgress, WatchClock, WatchLoss
    from kdep_benchmarks.openmmlab.resume import go_on

    # mmengine uses a GPU whenever there is one; of several torch's current one, which `processes.join` has set.
    mmengine.device.utils.DEVICE = cell.device.type
    _complete(config, cell)
    whose = {"checkpoint": cell.checkpoint.identity, "settings": vars(cell.settings), "seed": cell.seed}
    forget_others(cell.work_dir, cell.task, whose, left=[cell.last.name])
    resumed = [go_on(config, cell.last, seed=cell.seed)] if cell.last.exists() else []
    runner = Runner.from_cfg(config)
    load = LoadExactly(cell.checkpoint, config.default_scope)
    guards = []
    if KINDS[cell.task.kind].frozen:
        freeze(runner.model)
        guards = [StayFrozen(load)]
    watch = WatchLoss(every=max(1, cell.settings.passes // 50))
    clock = WatchClock()
    keep = KeepLast(cell.last, every=cell.settings.save_every, accumulate=cell.settings.accumulate)
    for hook in (load, watch, clock, keep, TellProgress(cell.work_dir), *guards, *resumed):
        runner.register_hook(hook)
    model = runner.train()
    curves = {"iteration": watch.iterations, "loss": watch.losses}
    rate = clock.iterations_per_second
    cost = {} if rate is None else {"images_per_second": round(rate * cell.settings.batch_size, 1)}
    return Trained(model, len(runner.train_dataloader.dataset), load.report, curves, cost)


def _complete(config: "Config", cell: Training) -> None:
    """Set what all runs share. mmengine does not evaluate; `predictions` runs after the last iteration."""
    for role in ("val", "test"):
        for part in ("cfg", "dataloader", "evaluator"):
            config[f"{role}_{part}"] = None
    config.work_dir = str(cell.work_dir)
    # Unique, because runners with the same name in a process share loggers and message hubs.
    config.experiment_name = f"{cell.task.name}-{time.time_ns()}"
    config.launcher = "none"
    # Not deterministic on CUDA: the gradient of up-sampling has no deterministic kernel. CPU runs are reproducible.
    config.randomness = {"seed": cell.seed, "deterministic": False}
    # A new interpreter could not unpickle a data set of the toolboxes: it lacks the stand-in for mmcv's operators.
    mp_cfg = {"mp_start_method": "fork", "opencv_num_threads": 0}
    config.env_cfg = {"cudnn_benchmark": False, "mp_cfg": mp_cfg, "dist_cfg": {"backend": "nccl"}}
    config.visualizer = {"type": "Visualizer", "vis_backends": []}
    config.log_processor = {"type": "LogProcessor", "window_size": 10, "by_epoch": False}
    config.default_hooks = {
        "timer": {"type": "IterTimerHook"},
        "logger": {"type": "LoggerHook", "interval": max(1, cell.settings.passes // 20), "log_metric_by_epoch": False},
        "param_scheduler": {"type": "ParamSchedulerHook"},
        "checkpoint": None,  # see hooks.KeepLast
        "sampler_seed": {"type": "DistSamplerSeedHook"},
    }


@torch.no_grad()
def predictions(model: "nn.Module", dataset: dict[str, Any], cell: Training) -> Iterator[Any]:
    """Yield the toolbox's data sample with predictions for every image of the test split."""
    from mmengine.runner import Runner

    model.eval()  # not chained: some of the toolboxes' train() return None
    for batch in Runner.build_dataloader(loader(dataset, cell.settings, train=False), seed=cell.seed):
        yield from model.test_step(batch)


def check_count(scored: int, expected: int, task: Task) -> None:
    """Raise unless every image of the test split was scored."""
    if scored != expected:
        raise ValueError(f"{task.name}: {scored} images were scored, the test split has {expected}")
