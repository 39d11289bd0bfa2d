"""Results made for the tests of the scoreboard; `result(...)` says only what a test is about."""

import numpy as np

from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.resample import resamples_of
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.result import CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import write_result

FAMILIES = {"segment": ("segmentation", "mIoU"), "detect": ("detection", "AP")}


def result(name="a", task="cifar-linear", seed=0, score=50.0, *, arch="resnet18", role="student", version=1, **others):
    """One cell; its sha256 follows from the checkpoint's name, kind and fingerprint of the data from the task's.

    A top-1 of several test images has the error that `write_result` gives it, the binomial one.
    """
    dataset, kind = task.rsplit("-", 1)
    kind = others.pop("kind", kind)
    family, metric = FAMILIES.get(kind, ("classification", "top1"))
    sha256 = others.pop("sha256", name.encode().hex().ljust(64, "0")[:64])
    fields = {
        "checkpoint": CheckpointCard(name, sha256, arch, 11_000_000, {"role": role}),
        "task": TaskCard(task, kind, family, dataset),
        "protocol": Protocol("fair", version, others.pop("budget", "full")),
        "data_fingerprint": others.pop("data", dataset.encode().hex().rjust(64, "d")[-64:]),
        "seed": seed,
        "status": "ok",
        "started": "2026-01-02T03:04:05Z",
        "settings": {},
        "metrics": {metric: score},
    }
    images = others.get("counts", {}).get("test", 0)
    if metric == "top1" and images > 1:
        share = others.get("metrics", fields["metrics"]).get("top1", 0) / 100
        fields["errors"] = {"top1": 100 * (share * (1 - share) / (images - 1)) ** 0.5}
    return Result(**(fields | others))


def failure(name="a", task="cifar-linear", seed=0, **others):
    """The same cell, failed."""
    error = {"exit_code": 1, "log": "Traceback\nRuntimeError: out of memory\n"}
    return result(name, task, seed, status="failed", metrics={}, error=error, **others)


def runs(name, task, scores, **others):
    """One result per score; the seeds count from zero."""
    return [result(name, task, seed, score, **others) for seed, score in enumerate(scores)]


def answered(answers):
    """The metrics that answers per image give."""
    return {name: float(value[0]) for name, value in metrics_of(answers).items()}


class Answered:
    """Results of classifiers with their answers; `read` gives the resamples of a result as `read_resamples` does."""

    def __init__(self):
        self.results, self.answers = [], {}

    def add(self, name, task, *runs, **others):
        """One result per seed; a run is for each image whether it was right, or (draws, images) of that."""
        for seed, right in enumerate(runs):
            right = np.atleast_2d(np.asarray(right, int))
            answers = class_answers(1 - right, np.zeros(right.shape[1], int))
            one = result(name, task, seed, 100 * float(right.mean()), answers=answers.sha256, **others)
            self.results.append(one)
            self.answers[one.answers] = answers
        return self

    def read(self, one):
        """The resamples of a result."""
        return resamples_of([self.answers[one.answers]], one.main_metric)

    def write(self, folder):
        """Write all results with their answers."""
        for one in self.results:
            write_result(one, folder, answers=self.answers[one.answers])
