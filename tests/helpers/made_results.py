"""Results made for the tests of the scoreboard; `result(...)` says only what a test is about."""

from kdep_benchmarks.results import CheckpointCard, Protocol, Result, TaskCard

FAMILIES = {"segment": ("segmentation", "mIoU"), "detect": ("detection", "AP")}


def result(name="a", task="cifar-linear", seed=0, score=50.0, *, arch="resnet18", role="student", version=1, **others):
    """One cell; its sha256 follows from the checkpoint's name, its kind and family from the task's."""
    dataset, kind = task.rsplit("-", 1)
    family, metric = FAMILIES.get(kind, ("classification", "top1"))
    sha256 = others.pop("sha256", name.encode().hex().ljust(64, "0")[:64])
    fields = {
        "checkpoint": CheckpointCard(name, sha256, arch, 11_000_000, {"role": role}),
        "task": TaskCard(task, kind, family, dataset),
        "protocol": Protocol("fair", version, others.pop("budget", "full")),
        "data_fingerprint": others.pop("data", "d" * 64),
        "seed": seed,
        "status": "ok",
        "started": "2026-01-02T03:04:05Z",
        "metrics": {metric: score},
    }
    return Result(**(fields | others))


def failure(name="a", task="cifar-linear", seed=0, **others):
    """The same cell, failed."""
    error = {"exit_code": 1, "log": "Traceback\nRuntimeError: out of memory\n"}
    return result(name, task, seed, status="failed", metrics={}, error=error, **others)


def runs(name, task, scores, **others):
    """One result per score; the seeds count from zero."""
    return [result(name, task, seed, score, **others) for seed, score in enumerate(scores)]
