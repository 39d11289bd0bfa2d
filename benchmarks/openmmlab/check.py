"""Can both toolboxes be imported here? Asked by `kdep doctor`."""

from kdep_benchmarks.openmmlab import compat, ops


def import_toolboxes() -> str:
    """Import mmdet and mmseg as a cell does, and say whose operators they use.

    Raises:
        ImportError: or whatever else an incomplete installation raises.
    """
    compat.prepare()
    import mmdet.models  # noqa: F401 - imported to see that it can be
    import mmseg.models  # noqa: F401 - likewise

    return ops.backend()
