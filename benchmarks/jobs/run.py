"""Run the cells of a plan through an engine; show how far they are and say how each one ended."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial

from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.cell import Cell, Status, keep_files, lost, run_and_return_files, run_cell, seen_from_here
from kdep_benchmarks.jobs.engines.engine import Engine, Lost
from kdep_benchmarks.jobs.locks import try_lock
from kdep_benchmarks.jobs.plan import Planned, Times, add_time, at_once, estimate, extracting_first
from kdep_benchmarks.jobs.screen import Line, Screen
from kdep_benchmarks.results import read_result
from kdep_benchmarks.tasks.progress import Progress, clear_progress, read_progress

PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before asking again for cells that another suite holds, doubled each time
WAITING_SHOWN = 5


def run_plan(plan: Sequence[Planned], engine: Engine, times: Times, screen: Screen, *, jobs: int) -> list[Status]:
    """Run the cells that are to run; return how they ended.

    A cell that another suite is measuring is asked for again after all others, until it is done or free. Where its
    folder is seen from here, no job is spent on asking.

    Args:
        plan: cells; only those to run count.
        engine: where cells run.
        times: of finished cells; new ones are added.
        screen: where to show progress.
        jobs: cells at once, for the time that is left.
    """
    todo = [planned for planned in plan if planned.state == "to run"]
    total, waiting, pause = len(todo), extracting_first(todo) if jobs > 1 else todo, PAUSE
    clear_stale_progress(waiting)
    statuses: list[Status] = []
    look = False
    while waiting:
        before = len(statuses)
        seen = [seen_from_here(planned.cell) if look else None for planned in waiting]
        placed = [planned for planned, status in zip(waiting, seen, strict=True) if status is None]
        left = dict(enumerate(placed))
        busy: list[Planned] = []

        def note(planned: Planned, status: Status, left: dict[int, Planned] = left, busy: list[Planned] = busy) -> None:
            if status.state == "busy":
                busy.append(planned)
                return
            statuses.append(status)
            if status.state == "done":
                add_time(times, read_result(planned.cell.path))
            rest = time_left([p.cell for p in (*left.values(), *busy)], times, jobs=jobs)
            took = f"({duration(status.seconds)}{rest})"
            screen.say(f"[{len(statuses)}/{total}] {planned.title}  {status.text}  {took}")

        def show(left: dict[int, Planned] = left, busy: list[Planned] = busy) -> None:
            cells = [planned.cell for planned in (*left.values(), *busy)]
            summary = f"{len(statuses)} of {total} ended{time_left(cells, times, jobs=jobs)}"
            screen.show(lines([*left.values(), *busy], times), summary)

        for planned, status in zip(waiting, seen, strict=True):
            if status is not None:
                note(planned, status)
        job = run_cell if engine.shares_folders else run_and_return_files
        work = [partial(job, planned.cell) for planned in placed]
        with contextlib.closing(engine.run(work, meanwhile=show, say=screen.say)) as ended:
            for position, returned in ended:
                planned = left.pop(position)
                note(planned, status_of(planned.cell, returned))
        if len(statuses) == before:
            show()
            time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE) if len(statuses) == before else PAUSE
        waiting, look = busy, engine.shares_folders
    return statuses


def status_of(cell: Cell, returned: Status | tuple[Status, dict[str, bytes]] | Lost) -> Status:
    """How a cell ended, by what its engine yielded; its files are kept."""
    if isinstance(returned, Lost):
        return lost(cell, returned.reason)
    if isinstance(returned, Status):
        return returned
    status, files = returned
    keep_files(cell, files)
    return status


def clear_stale_progress(plan: Sequence[Planned]) -> None:
    """Remove progress files of cells that were killed, so that the table does not show these as running."""
    for planned in plan:
        if read_progress(planned.cell.work) is not None:
            with try_lock(planned.cell.work / "lock") as held:
                if held:
                    clear_progress(planned.cell.work)


def lines(plan: Sequence[Planned], times: Times) -> list[Line]:
    """Lines of the table: all running cells, then the next ones."""
    at = [(planned, read_progress(planned.cell.work)) for planned in plan]
    shown = []
    for planned, progress in at:
        if progress is not None:
            elapsed = time.time() - progress.began
            left = left_of(planned.cell, progress, times)
            shown.append(Line(planned.title, progress.step, progress.share, elapsed, left))
    waiting = [planned for planned, progress in at if progress is None]
    shown += [Line(p.title, "waiting", left=estimate(p.cell, times)) for p in waiting[:WAITING_SHOWN]]
    if len(waiting) > WAITING_SHOWN:
        shown.append(Line(f"{len(waiting) - WAITING_SHOWN} more", "waiting"))
    return shown


def left_of(cell: Cell, progress: Progress | None, times: Times) -> float | None:
    """Seconds that a cell still needs by the times of similar cells; None where that is unknown."""
    expected = estimate(cell, times)
    if expected is None or progress is None:
        return expected
    return max(0.0, expected - (time.time() - progress.began))


def time_left(cells: Sequence[Cell], times: Times, *, jobs: int) -> str:
    """Time for the rest, where it is more than a minute."""
    seconds, _ = at_once([left_of(cell, read_progress(cell.work), times) for cell in cells], jobs=jobs)
    return f", about {duration(seconds)} left" if seconds > 60 else ""
