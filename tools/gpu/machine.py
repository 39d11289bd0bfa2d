"""Describe the device, run out of its memory on purpose, and read its power."""

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from kdep.run.device import choose_student_precision, choose_teacher_precision
from kdep_benchmarks.jobs.memory import is_out_of_memory, oom_kills
from tools.gpu.cases import R50, case_of, check, config_of, random_images, setting_of
from tools.gpu.forms import rate
from tools.speed.pretraining.runs import student_step
from tools.speed.row import describe_device

FRACTION = 0.1  # of the device's memory, for the memory ladder
SMI = ["nvidia-smi", "--format=csv,noheader,nounits"]


def device(asked: dict[str, Any]) -> dict[str, Any]:
    """Name, memory, versions, and the precisions that auto means here."""
    where = setting_of(asked).device
    found: dict[str, Any] = describe_device(where)
    if where.type == "cuda":
        about = torch.cuda.get_device_properties(where)
        found |= {"name": about.name, "memory GB": about.total_memory / 1e9, "processors": about.multi_processor_count}
        found |= {"capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda}
        found |= {"cudnn": torch.backends.cudnn.version(), "driver": smi("driver_version", where)}
        found |= {"power limit, W": smi("power.limit", where)}
    found["precision auto"] = str(choose_student_precision("auto", where))
    found["teacher.precision auto"] = str(choose_teacher_precision("auto", where))
    return {"figures": found}


def smi(query: str, where: torch.device) -> str:
    """Ask nvidia-smi about a GPU; 'not readable' and why where it does not say.

    It is asked by the GPU's UUID: nvidia-smi does not know CUDA_VISIBLE_DEVICES and may count in another order.
    """
    if where.type != "cuda":
        return "not readable: no GPU"
    if shutil.which("nvidia-smi") is None:
        return "not readable: no nvidia-smi"
    command = [*SMI, f"--query-gpu={query}", f"--id=GPU-{torch.cuda.get_device_properties(where).uuid}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    lines = answer.stdout.strip().splitlines()
    return lines[0] if answer.returncode == 0 and lines else f"not readable: {(answer.stderr or answer.stdout).strip()}"


def ladder(attempt: Callable[[int], Any], batch: int) -> dict[str, Any]:
    """Halve a batch until it fits, as a cell does; return the first batch, the one that fits, and the halvings.

    Raises:
        RuntimeError: an error that is not recognised as out of memory.
    """
    first, kills = batch, oom_kills()
    while True:
        try:
            attempt(batch)
        except Exception as error:
            if not is_out_of_memory(error, kills_before=kills) or batch == 1:
                raise
            batch //= 2
            continue
        return {"first batch": first, "batch that fits": batch, "halvings": (first // batch).bit_length() - 1}


def memory(asked: dict[str, Any]) -> dict[str, Any]:
    """Allow a tenth of the device's memory, and train on batches that do not fit until one does."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    config = config_of(setting, case, name="memory")
    size = case.size

    def attempt(batch: int) -> None:
        if setting.device.type == "cpu" and batch > 4:  # a CPU has no fraction: what its allocator would say
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        images = torch.rand(batch, 3, size, size, device=setting.device)
        student_step(config, images)()

    if setting.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(FRACTION, setting.device)
    found = ladder(attempt, 16 if setting.quick else 8192)
    if setting.device.type == "cuda":
        found["fraction"], found["peak GB"] = FRACTION, torch.cuda.max_memory_allocated(setting.device) / 1e9
    return {"figures": found, "checks": [check("out of memory was not provoked (1)", float(found["halvings"] == 0), 0)]}


def watts(asked: dict[str, Any]) -> dict[str, Any]:
    """Images/s of the student's step, and per watt where the power can be read."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    config = config_of(setting, case, name="watts")
    images = random_images(case, 1)[0].to(setting.device)
    work = student_step(config, images)
    readings: list[str] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.2):
            readings.append(smi("power.draw", setting.device))

    sampler = threading.Thread(target=sample)
    began, rates = time.monotonic(), []
    sampler.start()
    while time.monotonic() - began < (0.1 if setting.quick else 8):
        rates.append(rate(work, case.batch, setting.device))
    ended.set()
    sampler.join()
    speed = statistics.median(rates)
    draws = [float(reading) for reading in readings if reading.replace(".", "", 1).isdigit()]
    if not draws:
        reason = readings[-1] if readings else "not readable: no sample"
        return {"figures": {"images/s": speed, "W": reason, "images/s/W": reason}}
    power = statistics.median(draws)
    return {"figures": {"images/s": speed, "W": power, "images/s/W": speed / power}}
