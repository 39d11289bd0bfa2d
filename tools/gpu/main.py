"""Check and measure kdep on a GPU, step by step, each in a process of its own with a time limit.

    tools/gpu.sh                              # all steps, ten minutes at most
    tools/gpu.sh --steps agree,precision      # some of them; --list names them
    tools/gpu.sh --device cpu --tiny --here --out /tmp/gpu.json   # try the script without a GPU

A step that fails or takes too long is recorded and stops no other. The files are written after every step, so an
interrupted run leaves what it has measured. Exit code: 0 if every step is done and every check holds, else 1.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdep.files import write_text
from tools.speed.clock import environment

OUT = Path("docs/figures/gpu.json")
BUDGET = 600  # seconds, of everything
LEAST = 5  # seconds: with less left, a step is not started


@dataclass(frozen=True)
class Step:
    """A step: its function, which returns {"figures": {...}, "checks": [...]}, and its limit in seconds."""

    function: str
    limit: int
    about: str


STEPS = {
    "device": Step("machine:device", 40, "what the device is, and its limits"),
    "agree": Step("agreement:agree", 90, "CPU and device in float32: features, targets, losses of 20 steps"),
    "precision": Step("agreement:precision", 60, "bfloat16 and float16 against float32 on the device"),
    "resume": Step("whole:resume", 60, "an interrupted run against an uninterrupted one"),
    "forms": Step("forms:forms", 120, "cudnn.benchmark, channels last, compiled teacher and student"),
    "memory": Step("machine:memory", 40, "out of memory is detected, and half the batch fits"),
    "photographs": Step("loops:pictures", 60, "draw JPEG files like ImageNet's"),
    "loader": Step("loops:loader", 60, "images/s of the loader against the student's step at 224 px"),
    "r50": Step("loops:r50", 120, "ResNet-50 -> ResNet-18, live and from a bank, against the reference loop"),
    "vit": Step("loops:vit", 120, "ViT-B/16 -> ResNet-18, likewise"),
    "watts": Step("machine:watts", 30, "images/s and watt of the student's step"),
    "demo": Step("whole:demo", 150, "the demo: pretrain, then its frozen tasks"),
    "probes": Step("whole:probes", 120, "kNN, linear, dense-linear and box of the demo's student: CPU against device"),
}


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    args = parse(arguments)
    if args.list:
        for name, step in STEPS.items():
            print(f"{name:12s} {step.limit:4d} s  {step.about}")  # noqa: T201 - the answer
        return 0
    chosen = args.steps.split(",")
    if unknown := [name for name in chosen if name not in STEPS]:
        sys.exit(f"gpu: no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if args.device != "cpu" and not has_gpu():
        sys.exit("gpu: torch sees no CUDA device; --device cpu --tiny tries the script without one")
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    setting = {"device": args.device, "work": str(work), "tiny": args.tiny}
    document: dict[str, Any] = {"device": args.device, "tiny": args.tiny, "budget_seconds": args.budget, "steps": {}}
    began = time.monotonic()
    for name in chosen:
        left = args.budget - (time.monotonic() - began)
        found = run_step(name, setting, min(STEPS[name].limit, left), here=args.here)
        document["steps"][name] = found
        write_text(args.out, json.dumps(document, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), markdown(document))
        print(f"{name}: {found['status']}, {found['seconds']:.0f} s", flush=True)  # noqa: T201 - progress
    print(markdown(document))  # noqa: T201 - the answer
    return 0 if all(is_right(found) for found in document["steps"].values()) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default=",".join(STEPS), help="comma-separated [all]")
    parser.add_argument("--list", action="store_true", help="name the steps and their limits")
    parser.add_argument("--device", default="cuda", help="[cuda]")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: tries the script, figures mean nothing")
    parser.add_argument("--here", action="store_true", help="run the steps in this process, without time limits")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds of all steps together [{BUDGET}]")
    parser.add_argument("--out", type=Path, default=OUT, help=f"[{OUT}; the table beside it ends in .md]")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="photographs, banks, runs [runs/gpu]")
    return parser.parse_args(arguments)


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def run_step(name: str, setting: dict[str, Any], limit: float, *, here: bool) -> dict[str, Any]:
    """Run a step and return its record: status, seconds, figures, checks, and the error of a failed one."""
    if limit < LEAST:
        return {"status": "not run: no time left", "seconds": 0.0}
    began = time.monotonic()
    found = in_process(name, setting) if here else in_child(name, setting, limit)
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def in_process(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Call a step's function; an error of any kind is its result."""
    module, _, function = STEPS[name].function.partition(":")
    try:
        return {"status": "done", **getattr(importlib.import_module(f"tools.gpu.{module}"), function)(setting)}
    except Exception:  # recorded: the other steps must run
        return {"status": "failed", "error": traceback.format_exc()[-2000:]}


def in_child(name: str, setting: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run a step in a process group of its own, and kill the group after the limit: a CUDA call may hang."""
    asked = json.dumps({"name": name, "setting": setting})
    command = [sys.executable, "-m", "tools.speed.child", "tools.gpu.main:in_process", asked]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    child = subprocess.Popen(command, env=environment(), **pipes)
    try:
        output, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        return {"status": f"stopped after {limit:.0f} s", "error": output[-2000:]}
    for line in reversed(output.splitlines()):  # libraries may write after the record, while the process ends
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
            if isinstance(found, dict) and "status" in found:
                return found
    return {"status": f"failed with exit code {child.returncode}", "error": output[-2000:]}


def is_right(found: dict[str, Any]) -> bool:
    """Whether a step is done and its checks hold."""
    return found["status"] == "done" and all(check["holds"] for check in found.get("checks", ()))


def markdown(document: dict[str, Any]) -> str:
    """Format checks and figures as tables."""
    steps = document["steps"]
    name = steps.get("device", {}).get("figures", {}).get("name", document["device"])
    lines = [f"{name}" + ("; tiny networks, the figures mean nothing" if document["tiny"] else ""), ""]
    lines += ["| step | status | s |", "|---|---|---:|"]
    lines += [f"| {step} | {found['status']} | {found['seconds']:.0f} |" for step, found in steps.items()]
    lines += ["", "| step | check | value | limit | holds |", "|---|---|---:|---:|---|"]
    for step, found in steps.items():
        for check in found.get("checks", ()):
            holds = "yes" if check["holds"] else "**no**"
            lines.append(f"| {step} | {check['what']} | {check['value']:.3g} | {check['limit']:.3g} | {holds} |")
    lines += ["", "| step | figure | value |", "|---|---|---:|"]
    for step, found in steps.items():
        lines += [f"| {step} | {key} | {shown(value)} |" for key, value in found.get("figures", {}).items()]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """Format a figure."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


if __name__ == "__main__":
    sys.exit(main())
