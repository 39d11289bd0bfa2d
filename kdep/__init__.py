"""KDEP: distil a frozen teacher into a student backbone, without labels; measure any backbone on one scoreboard.

>>> student = kdep.pretrain(data="photos", student="resnet18")                   # -> path of student.pth
>>> results = kdep.transfer([student, "random:resnet18"], suite="probe")         # -> pandas.DataFrame
>>> verdicts = kdep.compare(student, "random:resnet18")                          # -> pandas.DataFrame
>>> network = kdep.load(student)                                                 # -> torch.nn.Module

Everything is imported when it is first used, so `import kdep` takes no time.
"""

from typing import Any

# name -> module of the function of that name
FUNCTIONS = {
    "pretrain": "kdep.pretrain",
    "transfer": "kdep_benchmarks.transfer",
    "compare": "kdep_benchmarks.verdicts.compare",
    "load": "kdep.models.load",
}


def __getattr__(name: str) -> Any:
    if name not in FUNCTIONS:
        raise AttributeError(f"module 'kdep' has no attribute {name!r}; there are {', '.join(FUNCTIONS)}")
    from importlib import import_module

    module = import_module(FUNCTIONS[name])
    # kdep.pretrain is the module itself, which can be called: Python sets a submodule as its package's attribute.
    return module if module.__name__ == f"kdep.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *FUNCTIONS})
