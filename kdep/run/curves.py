"""Draw the curves of a run: loss.png in its folder."""

from kdep.files import write_atomically
from kdep.run.folder import RunFolder
from kdep.run.log import read_log

PROBES = {"probe_knn": "kNN top-1", "probe_dense_knn": "dense-knn mIoU"}  # keys of the log, and what they are


def draw_loss(run: RunFolder) -> None:
    """Write loss.png."""
    records = read_log(run.log)
    if not records:
        return
    from matplotlib.figure import Figure

    images = [record["images"] for record in records]
    looks = {name: [record for record in records if name in record] for name in PROBES}
    looks = {name: found for name, found in looks.items() if found}
    figure = Figure(figsize=(7, 6 if looks else 4), layout="constrained")
    axes, *below = figure.subplots(1 + bool(looks), sharex=True, squeeze=False)[:, 0]
    axes.plot(images, [record["loss"] for record in records], color="#2563eb", label="loss")
    axes.set(ylabel="loss", title=run.path.name)
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(images, [record["lr"] for record in records], color="#9ca3af", linestyle="--", label="learning rate")
    rate.set_ylabel("learning rate")
    for (name, found), colour in zip(looks.items(), ("#059669", "#d97706"), strict=False):
        line = ([record["images"] for record in found], [record[name] for record in found])
        below[0].plot(*line, color=colour, marker="o", markersize=3, label=PROBES[name])
        below[0].set_ylabel("%")
        below[0].grid(alpha=0.3)
    (below or [axes])[0].set_xlabel("images seen")
    figure.legend(loc="outside upper right")
    write_atomically(run.path / "loss.png", lambda part: figure.savefig(part, dpi=120, format="png"))
