"""Plans: the settings that a config leaves open, chosen from its images and the devices."""

import dataclasses
import os
from typing import Any

import ml_collections
import tensorflow as tf

from moco_tf import distribution, run_directory
from moco_tf.config import check, check_values, flatten
from moco_tf.data import sources
from moco_tf.plan import devices as devices_module
from moco_tf.plan import images as images_module
from moco_tf.plan import printing, rules
from moco_tf.plan.facts import Devices, Images
from moco_tf.plan.warnings import warnings


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config without open settings, and why it is as it is.

    Attributes:
        config: The config.
        reasons: The reason of each planned setting, by its key.
        images: What the images are.
        devices: What the devices are.
        warnings: What may go wrong, one line each.
        summary: Lines about the data source.
    """

    config: ml_collections.ConfigDict
    reasons: dict[str, str]
    images: Images
    devices: Devices
    warnings: list[str]
    summary: str

    def __str__(self) -> str:
        """What was found, the settings with their reasons, and the warnings."""
        facts = printing.facts(self.images, self.devices)
        settings = printing.table(self.config, self.reasons)
        warned = printing.warning_lines(self.warnings)
        return "\n".join([self.summary, facts, "", settings, *([""] if warned else []), *warned])


def open_settings(config: ml_collections.ConfigDict) -> list[str]:
    """Return the settings of a config that a plan chooses, because they are None."""
    return [key for key in rules.PLANNED if config[key] is None]


def make(config: ml_collections.ConfigDict) -> Plan:
    """Plan a run on the devices of the current strategy.

    The same images, devices and settings give the same plan.

    Args:
        config: A config whose planned settings may be None, such as that of configs/auto.py. Its
            other settings are kept.

    Raises:
        UserError: If a setting is invalid, or the data source cannot be read.
    """
    check_values(config, unset=open_settings(config))
    source = sources.from_config(config)
    images, devices = images_module.look(source, config.seed), devices_module.look()
    is_open = bool(open_settings(config))
    chosen = rules.apply(images, devices, flatten(config))
    given = "set by you" if is_open else "as in the config"
    planned = _with(config, {key: value for key, (value, _) in chosen.items()})
    reasons = {key: chosen[key][1] if key in chosen else given for key in rules.PLANNED}
    check(planned, devices.replicas)
    found = warnings(images, devices, flatten(planned))
    return Plan(planned, reasons, images, devices, found, source.summary)


def resolve(
    config: ml_collections.ConfigDict, workdir: str | None = None
) -> ml_collections.ConfigDict:
    """Return the config of a run without open settings.

    If the run directory holds a run, they are those of the run, whatever the images and the devices
    are now. Otherwise they are planned, and printed with their reasons.

    Args:
        config: Config of the run. Without open settings it is returned as it is.
        workdir: Path of the run directory, or None without one.

    Raises:
        UserError: As `make`, or if the run in `workdir` has no readable config.
    """
    unset = open_settings(config)
    if not unset:
        return config
    if workdir is not None and tf.io.gfile.exists(os.path.join(workdir, "config.json")):
        saved = run_directory.read_config(workdir)
        return _with(config, {key: saved[key] for key in unset})
    plan = make(config)
    if distribution.is_chief():
        print(printing.table(plan.config, plan.reasons))
        for line in printing.warning_lines(plan.warnings):
            print(line)
    return plan.config


def _with(config: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    planned = config.copy_and_resolve_references()
    for key, value in values.items():
        planned[key] = value
    return planned
