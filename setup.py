"""Packages that live beside `moco_tf` in a checkout; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["moco_tf", "moco_tf.*"]),
        "moco_tf.configs",
        "moco_tf.export",
    ],
    package_dir={"moco_tf.configs": "configs", "moco_tf.export": "export"},
)
