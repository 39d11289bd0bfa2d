"""The console command `kdep`: every verb of the project, each imported when it is asked for."""

import argparse
import difflib
import errno
import importlib
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from kdep.data.loading.loader import lost_loader
from kdep.guard import printable
from kdep.interrupts import sigterm_interrupts

# verb -> (module with add_arguments and run, one line of help)
VERBS: dict[str, tuple[str, str]] = {
    "targets": ("kdep.verbs.targets", "compute a bank of teacher targets once: RECIPE [key.sub=value ...]"),
    "pretrain": ("kdep.verbs.pretrain", "distil a teacher into a student: [RECIPE] [key.sub=value ...]"),
    "export": (
        "kdep_benchmarks.verbs.export",
        "write a student for timm, torchvision, mmseg, mmdet, detectron2 or ONNX",
    ),
    "statistics": (
        "kdep_benchmarks.verbs.statistics",
        "describe a teacher, or rank several: TEACHER ...",
    ),
    "audit": (
        "kdep_benchmarks.verbs.audit",
        "check that a library's backbone computes what the student computes",
    ),
    "transfer": ("kdep_benchmarks.verbs.transfer", "measure checkpoints on a suite of tasks"),
    "leaderboard": (
        "kdep_benchmarks.verbs.leaderboard",
        "rebuild leaderboard.csv, .md, .html from results; merge DIR ...",
    ),
    "compare": ("kdep_benchmarks.verdicts.compare", "say whether the difference of two checkpoints is real"),
    "fidelity": (
        "kdep_benchmarks.verbs.fidelity",
        "say which cheap column may stand for which expensive one: [DIR ...]",
    ),
    "study": (
        "kdep_benchmarks.studies.study",
        "compare recipes: several runs of each, scored on the same tasks",
    ),
    "subset": ("kdep.verbs.subset", "write a seeded list of image paths, such as a tenth of ImageNet"),
    "ls": ("kdep_benchmarks.verbs.ls", "list tasks, suites, data sets, recipes, studies"),
    "data": (
        "kdep_benchmarks.verbs.data",
        "check or prepare data sets, or find images that two of them share",
    ),
    "doctor": ("kdep_benchmarks.verbs.doctor", "show versions, mmcv ops, device, disk and the data sets found"),
}

# User error: the folder is not writable or the disk is full.
OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# User error: the path is missing or of the wrong type.
OF_A_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}

# Errors whose text is the sentence. By name: importing their modules would load torch for every verb.
IN_WORDS = {"DiskError", "LostError", "ShardError"}

NEWLINES = "\n\t"
GOES_ON = "the same command goes on from here"
INTERRUPTED = f"interrupted; {GOES_ON}"
# What makes a verb need less of a GPU's memory; the others have no option that does.
LESS_MEMORY = {
    "pretrain": "take a smaller optim.batch_size or data.size; a run needs another name (name=...) then",
    "statistics": "take a smaller --size",
    "targets": "take a smaller optim.batch_size; a smaller data.size needs another bank.path=FOLDER",
}
OTHERS_MEMORY = "nvidia-smi shows what else uses this GPU; end that, or take another GPU"

ABOUT = "Distil backbones without labels, and compare checkpoints on one board. `kdep VERB --help` says more."
EPILOG = """\
the usual way:
  kdep data prepare scenes --data-root demo            # small generated sets
  kdep pretrain demo                                   # -> runs/demo/student.pth
  kdep transfer runs/demo/student.pth random:resnet18 --suite demo --data-root demo --seeds 0,1,2
  kdep compare demo random:resnet18
exit codes: 0 done, 1 something failed, 2 usage, 3 weights did not load, 130 interrupted
"""


class Version(argparse.Action):
    """Print the installed version; importlib.metadata is imported only then, since `kdep --help` must stay fast."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Print and exit."""
        from importlib.metadata import version

        sys.stdout.write(f"kdep {version('kdep')}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; a mistake of the user's is one clear message, not a traceback."""
    try:
        return run_verb(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:  # before the verb began
        return fail(INTERRUPTED, 130)


def run_verb(arguments: Sequence[str]) -> int:
    """Read the words of a command, and run its verb."""
    parser = argparse.ArgumentParser(
        "kdep", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and stop")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, help_) in VERBS.items():
        verb = verbs.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        if name in arguments[:1]:  # only the verb that runs is imported: --help stays fast
            importlib.import_module(module).add_arguments(verb)
            args = parse(verb, arguments[1:])
    if not arguments or arguments[0] not in VERBS:
        if arguments and (near := difflib.get_close_matches(arguments[0], VERBS, n=1)):
            parser.error(f"no verb {printable(arguments[0])!r}; did you mean {near[0]}?")
        parser.parse_args(arguments)  # says what is wrong, or helps, and exits
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    output = logging.StreamHandler()
    output.setFormatter(Visible())
    logging.basicConfig(level=logging.INFO, handlers=[output])
    module = VERBS[arguments[0]][0]
    # Training keeps the default: torchrun's processes must end at once, and a run's folder is swept when it resumes.
    with sigterm_interrupts() if module.startswith("kdep_benchmarks") else nullcontext():
        return guarded(importlib.import_module(module).run, args, verb=arguments[0])


def parse(verb: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Read the words behind a verb; options may stand between names, as in `pretrain RECIPE --dry-run key=value`."""
    try:
        return verb.parse_intermixed_args(words)
    except TypeError:  # a verb with verbs of its own
        return verb.parse_args(words)


class Visible(logging.Formatter):
    """Write escapes for characters that are not printable: a file's name must not write lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return printable(super().format(record), keep=NEWLINES)


def guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace, *, verb: str = "") -> int:
    """Turn expected errors of a verb into messages and exit codes."""
    try:
        code = run(args)
        sys.stdout.flush()  # here, where it is known what it means when nobody reads on
        return code
    except KeyboardInterrupt:
        return fail(INTERRUPTED, 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return fail(f"nobody reads the output any more, so this stopped; {GOES_ON}", 1)
        if said := sentence(error, verb=verb):
            return fail(said, exit_code(error))
        raise


def sentence(error: BaseException, *, verb: str = "") -> str:
    """Say what is wrong, where the user, the disk, the data or another process is the cause; "" for other errors.

    The one rule of which errors end without a traceback: of a command, and of a cell that `kdep transfer` measures.
    """
    if isinstance(error, ValueError | FloatingPointError) or type(error).__name__ in IN_WORDS:
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU; by name as in `IN_WORDS`
        return f"{str(error).partition('. ')[0]}; {LESS_MEMORY.get(verb, OTHERS_MEMORY)}"
    if said := lost_loader(error):
        return f"{said}; {GOES_ON}"
    if not isinstance(error, OSError):
        return ""
    path = error.filename2 or error.filename  # of two, the one that was asked for, not what is written beside it
    if error.errno in OF_A_PATH and path:
        return f"{os.fsdecode(path)}: {error.strerror}"
    if error.errno is None and isinstance(error, FileExistsError):  # ours, a sentence already
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; nothing half-written is left, {GOES_ON}" if error.errno in OF_THE_DISK else ""


def exit_code(error: BaseException) -> int:
    """3 for weights that do not load, 2 for another mistake of the user's, 1 for the rest; by name as in `IN_WORDS`."""
    if type(error).__name__ == "LoadError":
        return 3
    return 2 if isinstance(error, ValueError) else 1


def reader_is_gone() -> bool:
    """Whether standard output leads to a program that has ended, as behind `| head`; what is left for it is dropped."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # of no event but an end, which is always told
    gone = bool(output.poll(0))
    if gone:  # Python writes once more when it ends, and would complain then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def fail(message: str, code: int) -> int:
    """Print to stderr and return the code."""
    sys.stderr.write(f"kdep: {printable(message, keep=NEWLINES)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
