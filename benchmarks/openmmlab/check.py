"""Check that mmseg and mmdet can be imported, for `kdep doctor`."""

from kdep_benchmarks.openmmlab import compat, ops


def import_toolboxes() -> str:
    """Import mmdet and mmseg as a cell does; return the source of mmcv's operators.

    Raises:
        ImportError: a package is missing. Broken installations may raise other errors.
    """
    compat.prepare()
    import mmdet.models  # noqa: F401 - imported to see that it can be
    import mmseg.models  # noqa: F401 - likewise

    return ops.backend()
