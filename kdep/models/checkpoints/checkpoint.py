"""The checkpoint with its input normalisation and tap; student.pth; loading weights completely or not at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, PositiveFloat
from torch import nn

from kdep.files import save
from kdep.names import plain_name
from kdep.settings import Line, Name, Stored, dense, holding, shown, validate

StateDict = dict[str, torch.Tensor]

STUDENT_FORMAT = 1
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and std, RGB


class LoadError(ValueError):
    """Weights did not load completely; commands exit with code 3."""


# Plain values that boards and cards read; others may stand beside them.
Side = Annotated[int, Field(ge=1, lt=2**16)]
Deviations = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)]
Rgb = Annotated[tuple[float, float, float], Field(strict=False)]


class DataFacts(Stored):
    """The images of a pretraining."""

    source: str | None = None
    images: Annotated[int, Field(ge=0, lt=2**63)] = 0
    fingerprint: str | None = None


class TeacherFacts(Stored):
    """The teacher of a student."""

    source: str | list[str] | None = None


class OptimFacts(Stored):
    """The length of a training."""

    epochs: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class ConfigFacts(Stored):
    """What boards show of a configuration."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    optim: OptimFacts = OptimFacts()


class Provenance(Stored):
    """Where weights come from."""

    kind: Line = "other"
    source: str | None = None
    method: str | None = None
    commit: str | None = None
    images_seen: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    teacher: TeacherFacts = TeacherFacts()
    data: DataFacts = DataFacts()
    config: ConfigFacts = ConfigFacts()


class InputFacts(Stored):
    """The input that weights were trained with."""

    mean: Rgb
    std: Deviations
    size: Side


class StudentFile(Stored):
    """The content of student.pth."""

    name: Name
    arch: Line
    tap: Literal["pre", "post", "before_head"]
    state_dict: dict[str, Annotated[torch.Tensor, AfterValidator(dense)]]
    input: InputFacts
    provenance: Annotated[dict[str, Any], holding(Provenance)]


class Exported(Stored):
    """What an export adds to timm's config.json."""

    name: Name
    tap: Literal["pre", "post", "before_head"]
    size: Side
    resample: Side | None = None
    provenance: Annotated[dict[str, Any], holding(Provenance)]


class TimmInput(Stored):
    """The input in timm's config.json, and the name of its weights."""

    tag: Line | None = None
    mean: Rgb | None = None
    std: Deviations | None = None
    input_size: Annotated[tuple[Side, Side, Side], Field(strict=False)] | None = None


class TimmConfig(Stored):
    """Timm's config.json."""

    architecture: Line
    model_args: dict[str, Any] = {}
    pretrained_cfg: TimmInput = TimmInput()
    kdep: Exported | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A backbone's weights with all that is needed to run them.

    Attributes:
        name: what the scoreboard shows.
        arch: timm's name of the architecture.
        weights: timm's tensor names, no classifier.
        mean, std: the input normalisation, RGB in [0, 1].
        size: input side in pixels at which the weights were trained.
        tap: where features are taken, see `kdep.models.backbones.taps.TAPS`.
        resample: side in pixels to which the network resamples its input itself, None to take it as it comes.
        sha256: of the weights, hex.
        code: hash of the file with a user's own network, hex; None for timm's.
        provenance: where the weights come from; plain values only.
    """

    name: str
    arch: str
    weights: StateDict
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    tap: str
    sha256: str
    resample: int | None = None
    code: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            plain_name(self.name)
        except ValueError as error:
            raise ValueError(f"checkpoint {self.name!r}: {error}; rename its file") from error

    @property
    def identity(self) -> str:
        """Hash of the weights and of how they are used, hex; the weights' own hash where mean, std and size are usual.

        The tap counts for `before_head` only: probes choose between `pre` and `post` on val. Of a user's own network
        the file with its code counts, because the same weights give other features in other code.
        """
        mean, std = ([round(value, 5) for value in values] for values in (self.mean, self.std))
        how = [mean, std, self.resample, *([self.tap] if self.tap == "before_head" else [])]
        how += [self.code] if self.code else []
        if how == [*IMAGENET, None]:
            return self.sha256
        return hashlib.sha256(json.dumps([self.sha256, *how]).encode()).hexdigest()


def load_exactly(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Load every tensor or none.

    A partial load trains fine and scores badly; only this catches it.

    Raises:
        LoadError: some tensor is missing, unexpected, or of another shape; names the first of each.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    reshaped = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unexpected or reshaped:
        parts = [
            f"{len(names)} {what} (first {names[:3]})"
            for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
            if names
        ]
        arch = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
        what = f"{arch}, {len(own)} tensors" if arch else f"{len(own)} tensors"
        raise LoadError(f"{source} does not fit {type(module).__name__} ({what}): {', '.join(parts)}")
    module.load_state_dict(weights)


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Hash names, types, shapes and bytes of the tensors; the same for any file they are stored in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_student(checkpoint: Checkpoint, path: Path) -> None:
    """Write student.pth: plain tensors and values, no teacher, no aligner, no optimizer."""
    save(
        {
            "format": STUDENT_FORMAT,
            "name": checkpoint.name,
            "arch": checkpoint.arch,
            "tap": checkpoint.tap,
            "state_dict": {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()},
            "input": {"mean": list(checkpoint.mean), "std": list(checkpoint.std), "size": checkpoint.size},
            "provenance": checkpoint.provenance,
        },
        path,
    )


def parse_student(content: Mapping[str, Any], source: str) -> Checkpoint:
    """Read what `write_student` wrote.

    Raises:
        ValueError: another file, an unknown format version, or a key is missing or of another type.
    """
    if not isinstance(content, Mapping) or content.get("format") != STUDENT_FORMAT:
        found = f"format {shown(content.get('format'))}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{source}: student {found}; this version reads format {STUDENT_FORMAT}")
    known = validate(StudentFile, dict(content), source, remedy="not a complete student file; get it again")
    return Checkpoint(
        name=known.name,
        arch=known.arch,
        weights=known.state_dict,
        mean=known.input.mean,
        std=known.input.std,
        size=known.input.size,
        tap=known.tap,
        sha256=fingerprint(known.state_dict),
        provenance=known.provenance,
    )
