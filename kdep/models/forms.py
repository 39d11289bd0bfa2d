"""The fastest form of a network that computes the same: memory layout, folded BatchNorm, compiled; and its precision.

Which one wins depends on the network, the size of the images, the processor and the version of torch, so it is
measured when a run starts, once per machine: the choice is kept in a file, and the same command gives the same bits
again. A run keeps its own in run.pt, and goes on in it whatever was measured since. A form counts only if it gives the
plain form's features up to rounding (`TOLERANCE`), both in full float32: on a GPU that rounds to TF32, layouts differ
by more than that. Half precision rounds what float32 keeps, so it must gain more (`HALF_GAIN`); what bfloat16 does to
the trained student is in docs/reproduction.md.
"""

import copy
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdep.files import write_atomically
from kdep.models.backbone import Backbone
from kdep.run.device import Process, choose_precision, computing_in, describe_cpu, without_tf32

logger = logging.getLogger("kdep")

TOLERANCE = 5e-5  # norm of the difference over the norm of the features: float32 rounding through a deep network
FORMAT = 2  # raised when a choice that is kept would be made otherwise
GAIN = 1.05  # another form must be faster by this factor: less is noise
HALF_GAIN = 1.2
ENOUGH = 2**18  # pixels: a second's work
ROUNDS = 3
HALVES = {"": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # as they stand behind a form


Form = Callable[[nn.Module, torch.Tensor], nn.Module]


def as_it_is(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """The layout it has."""
    return network


def contiguous(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Channels first."""
    return network.to(memory_format=torch.contiguous_format)


def channels_last(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Channels last."""
    return network.to(memory_format=torch.channels_last)


def folded(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Channels last, each BatchNorm folded into the convolution before it; for a frozen network in eval mode."""
    return channels_last(fold_batchnorm(network, images), images)


def folded_contiguous(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Channels first, each BatchNorm folded; small images gain nothing from channels last on a CPU."""
    return contiguous(fold_batchnorm(network, images), images)


def compiled(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Folded and compiled; takes a minute to make, and a C++ compiler on CPUs."""
    network = folded(network, images)
    # Frozen weights are brought into the order of the processor's kernels once.
    options = {"freezing": images.device.type == "cpu"}
    network.forward = torch.compile(network.forward, dynamic=False, options=options)
    return network


FROZEN_FORMS: dict[str, Form] = {
    "channels_last": channels_last,
    "contiguous": contiguous,
    "folded": folded,
    "folded_contiguous": folded_contiguous,
    "compiled": compiled,
}
STUDENT_FORMS: dict[str, Form] = {"contiguous": contiguous, "channels_last": channels_last}
# The first is taken unless another gains more than noise: on a GPU that is the layout of its tensor cores.
STUDENT_FORMS_ON_GPU: dict[str, Form] = {"channels_last": channels_last, "contiguous": contiguous}


def sample(batch_size: int, size: int, device: torch.device) -> torch.Tensor:
    """Noise to measure on, (B, 3, size, size): a whole batch on a GPU, and on a CPU of small images.

    Of large images 16 tell enough on a CPU; of small ones the batch decides which layout is faster.
    """
    count = batch_size if device.type == "cuda" else min(batch_size, max(16, ENOUGH // size**2))
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


@dataclass(frozen=True)
class Chosen:
    """A network in its fastest form, and the precision in which its forward pass is to run."""

    network: Backbone
    precision: torch.dtype
    form: str = "as_it_is"

    @property
    def name(self) -> str:
        """Form and precision, as a run keeps them and takes them up again."""
        return _name(self.form, self.precision)

    def half(self, device: torch.device) -> torch.autocast:
        """The context of its forward pass, whatever the context around it."""
        return computing_in(self.precision, device)


def choose_frozen(
    role: str,
    network: Backbone,
    images: torch.Tensor,
    *,
    precision: str,
    tune: bool | str,
    process: Process,
    earlier: str | None = None,
) -> Chosen:
    """A frozen network in the form that is fastest on such images (B, 3, S, S), the same in all processes.

    Without `tune` it stays as it is; with "compile" the compiled form is tried too. `role` is what the log calls it.
    An `earlier` choice, by its name, is taken without measuring.
    """
    if (again := _again(role, network, FROZEN_FORMS, images, earlier, process)) is not None:
        return again
    if not tune:
        return Chosen(network, choose_precision(precision, images.device))
    forms = {name: form for name, form in FROZEN_FORMS.items() if name != "compiled" or tune == "compile"}

    @torch.no_grad()
    def run(network: nn.Module) -> torch.Tensor:
        return network(images)

    return _choose(role, network, forms, run, images, precision, process)


def choose_student(
    student: Backbone,
    images: torch.Tensor,
    *,
    precision: str,
    tune: bool | str,
    process: Process,
    earlier: str | None = None,
) -> Chosen:
    """Bring the student, in place, into the memory layout in which its training step is fastest.

    Without `tune`: channels last on GPUs and from 128 pixels on. An `earlier` choice, by its name, is taken without
    measuring.
    """
    if (again := _again("student", student, STUDENT_FORMS, images, earlier, process)) is not None:
        return again
    if not tune:
        form = "channels_last" if images.device.type == "cuda" or images.shape[-1] >= 128 else "contiguous"
        return Chosen(STUDENT_FORMS[form](student, images), choose_precision(precision, images.device), form)

    def run(network: nn.Module) -> torch.Tensor:
        network.train().zero_grad()
        features = network(images)
        features.float().square().mean().backward()
        return features.detach()

    forms = STUDENT_FORMS_ON_GPU if images.device.type == "cuda" else STUDENT_FORMS
    return _choose("student", student, forms, run, images, precision, process)


def _again(
    role: str, network: Backbone, forms: dict[str, Form], images: torch.Tensor, earlier: str | None, process: Process
) -> Chosen | None:
    """The network in the form of an earlier start, None where there was none or this device cannot compute in it."""
    earlier = process.gather(earlier)[0]
    form, _, dtype = (earlier or "").partition(" ")
    if earlier is None:
        return None
    if form not in forms or dtype not in HALVES or (dtype == "float16" and images.device.type == "cpu"):
        logger.warning("%s: %s, as the run began, is not to be had on this device; the run may differ", role, earlier)
        return None
    logger.info("%s: %s, as the run began", role, earlier)
    return Chosen(forms[form](network, images), HALVES[dtype], form)


def _choose(
    role: str,
    network: Backbone,
    forms: dict[str, Form],
    run: Callable[[nn.Module], torch.Tensor],
    images: torch.Tensor,
    precision: str,
    process: Process,
) -> Chosen:
    device = images.device
    tried = _precisions(precision, device)
    candidates = {_name(form, dtype): (form, dtype) for dtype in tried for form in forms}
    key = _key(role, network, images, list(candidates))
    known = _remembered().get(key)
    if known in candidates:
        logger.info("%s: %s, as measured on this machine before", role, known)
    else:
        with torch.random.fork_rng():  # drop path draws
            seconds = _measure(network, forms, tried, run, images)
        known = _best(seconds, forms, tried)
        shown = ", ".join(f"{name} {len(images) / value:.0f}" for name, value in seconds.items())
        logger.info("%s: %s is taken (images/s: %s)", role, known, shown)
        if process.is_first:
            _remember(key, known)
    form, dtype = candidates[process.gather(known)[0]]
    return Chosen(forms[form](network, images), dtype, form)


def _precisions(name: str, device: torch.device) -> list[torch.dtype]:
    """Those to measure: float32 first and half precision after it, or the one that was asked for."""
    if name != "auto":
        return [choose_precision(name, device)]
    return [torch.float32, torch.bfloat16 if device.type == "cpu" else choose_precision("auto", device)]


def _name(form: str, dtype: torch.dtype) -> str:
    return form if dtype == torch.float32 else f"{form} {str(dtype).removeprefix('torch.')}"


def _best(seconds: dict[str, float], forms: dict[str, Form], tried: list[torch.dtype]) -> str:
    """The fastest candidate of each precision, unless it gains no more than noise; then the precision that pays."""
    found = []
    for dtype in tried:
        names = [name for form in forms if (name := _name(form, dtype)) in seconds]
        fastest = min(names, key=lambda name: seconds[name])
        found.append(fastest if seconds[fastest] * GAIN < seconds[names[0]] else names[0])
    exact, half = found[0], found[-1]
    return half if seconds[half] * HALF_GAIN < seconds[exact] else exact


def _measure(
    network: Backbone,
    forms: dict[str, Form],
    tried: list[torch.dtype],
    run: Callable[[nn.Module], torch.Tensor],
    images: torch.Tensor,
) -> dict[str, float]:
    """Seconds of each form that computes the same, in turns, so that a busy moment hits all of them.

    They are timed under the caller's settings, TF32 included. float16 may overflow, which no time makes up for.
    """
    candidates, reference = {}, None
    for form_name, form in forms.items():
        candidate = form(copy.deepcopy(network), images)
        # A caller's autocast would compare half-precision rounding, which differs between layouts.
        with without_tf32(), computing_in(torch.float32, images.device):
            found = run(candidate).float()
        reference = found if reference is None else reference
        if float((found - reference).norm()) <= TOLERANCE * float(reference.norm()):
            candidates |= {_name(form_name, dtype): Chosen(candidate, dtype, form_name) for dtype in tried}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(ROUNDS + 1):
        for name, candidate in candidates.items():
            began = time.perf_counter()
            with candidate.half(images.device):
                found = run(candidate.network)
            finite = math.isfinite(float(found.float().sum()))  # waits for the device
            if turn > 0:  # the first prepares the kernels of this form and precision
                times[name].append(time.perf_counter() - began if finite else math.inf)
    return {name: median(values) for name, values in times.items()}


def _key(role: str, network: Backbone, images: torch.Tensor, forms: list[str]) -> str:
    """Everything the choice may depend on."""
    # A home directory may be shared by machines. What torch uses of the processor can be limited by the environment.
    device = [describe_cpu(), torch.backends.cpu.get_cpu_capability()]
    if images.device.type == "cuda":
        device.append(torch.cuda.get_device_name(images.device))
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    parts: list[Any] = [FORMAT, role, network.tap, shapes, list(images.shape), forms]
    parts += [(type(m.network).__name__, m.resample) for m in network.modules() if isinstance(m, Backbone)]
    parts += [*device, torch.get_num_threads(), str(torch.__version__), os.cpu_count()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file() -> Path:
    home = os.environ.get("KDEP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdep"
    return Path(home) / "forms.json"


def _remembered() -> dict[str, Any]:
    try:
        return json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}


def _remember(key: str, form: str) -> None:
    content = {**_remembered(), key: form}
    try:
        write_atomically(_file(), lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
    except OSError as error:
        logger.warning("the choice of forms is not kept (%s): a later run may differ in the last bits", error)


def fold_batchnorm(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Fold every BatchNorm that directly follows a convolution into it; the network must be in eval mode.

    Which BatchNorm follows which convolution is seen in a forward pass of these images, not guessed from names.
    """
    pairs: list[tuple[nn.Conv2d, str]] = []
    made: dict[int, tuple[torch.Tensor, nn.Conv2d]] = {}

    def keep(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = (output, conv)  # the tensor is kept alive, so its id stays its own

    def look(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][1], name))

        return hook

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(keep))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(look(name)))
    with torch.no_grad():
        network(images[:1])
    for hook in hooks:
        hook.remove()
    for conv, name in pairs:
        bn = network.get_submodule(name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        # timm's BatchNorm may hold an activation and a dropout layer of its own.
        rest = [getattr(bn, part) for part in ("drop", "act") if hasattr(bn, part)]
        network.set_submodule(name, nn.Sequential(*rest) if rest else nn.Identity())
    return network
