"""Plans: the settings that a config leaves open, chosen from its images and the devices."""

import dataclasses
from typing import Any

import ml_collections

from moco_tf import run_data, run_directory, run_pixels, workers
from moco_tf.backbones import loading, warm_start
from moco_tf.config import flatten
from moco_tf.config_checks import check, check_values
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.plan import devices as devices_module
from moco_tf.plan import images as images_module
from moco_tf.plan import printing, rules
from moco_tf.plan.checks import memory, warnings
from moco_tf.plan.facts import Devices, Images

# What a plan cannot see in the images.
HINT = (
    "hint: if the images have no up direction, such as overhead images and microscopy, set "
    "config.augmentation=any_orientation; look at a preview of the views"
)


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
        exceeds_memory: Why a step is not tried: it would need more memory than a CPU has, and the
            system would kill the process without a message. None if there is enough.
    """

    config: ml_collections.ConfigDict
    reasons: dict[str, str]
    images: Images
    devices: Devices
    warnings: list[str]
    summary: str
    exceeds_memory: str | None = None

    def __str__(self) -> str:
        """The facts, the settings with their reasons, and the warnings."""
        facts = printing.facts(self.images, self.devices)
        settings = printing.table(self.config, self.reasons)
        notes = printing.warning_lines(self.warnings)
        if self.config.augmentation != "any_orientation":
            notes.append(HINT)
        return "\n".join([facts, "", settings, "", *notes])


def open_settings(config: ml_collections.ConfigDict) -> list[str]:
    """Return the settings of a config that a plan chooses, because they are None."""
    return [key for key in rules.PLANNED if config[key] is None]


def make(config: ml_collections.ConfigDict, workdir: str | None = None) -> Plan:
    """Plan a run on the devices of the current strategy.

    The same images, devices and settings give the same plan.

    Args:
        config: A config whose planned settings may be None, such as that of configs/auto.py. Its
            other settings are kept.
        workdir: Path of the run directory. If it holds a run, the open settings are those of the
            run.

    Raises:
        UserError: If a setting is invalid or has no effect on the images, or the data source cannot
            be read.
    """
    unset = open_settings(config)
    check_values(config, unset)
    if workdir is None or not run_directory.exists(workdir):
        sources.require_effect(config)
    source = sources.from_config(config)
    if len(source.pretrain) < 2:
        raise UserError(
            f"data source '{source.name}' has one image for pre-training, but at least two are "
            "needed: add images"
        )
    images, devices = images_module.look(source, config.seed), devices_module.look()
    chosen = _from_run(config, workdir) or _from_weights(config)
    partly = _with(config, {key: value for key, (value, _) in chosen.items()})
    chosen |= rules.apply(images, devices, flatten(partly))
    planned = _with(config, {key: value for key, (value, _) in chosen.items()})
    given = "set by you" if unset else "as in the config"
    reasons = {key: chosen[key][1] if key in chosen else given for key in rules.PLANNED}
    check(planned, devices.replicas)
    if planned.batch_size > images.number:
        raise UserError(
            f"config.batch_size={planned.batch_size} is more than the {images.number} images of "
            f"'{source.name}': set it to {images.number} or less"
        )
    if workdir is not None:
        resolved = run_pixels.resolve(warm_start.resolve(planned, workdir), workdir)
        run_directory.require_same_run(workdir, resolved, run_data.of_source(source))
    elif not warm_start.may_be_download(planned):
        warm_start.resolve(planned, workdir)  # Weights that cannot be read are reported now.
    settings = flatten(planned)
    found = warnings(images, devices, settings)
    too_large = memory(images, devices, settings) if devices.kind == "cpu" else None
    return Plan(planned, reasons, images, devices, found, source.summary, too_large)


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
    if not open_settings(config):
        return config
    if chosen := _from_run(config, workdir):
        return _with(config, {key: value for key, (value, _) in chosen.items()})
    plan = make(config)
    if workers.is_chief():
        print(plan)
    return plan.config


def _from_run(config: ml_collections.ConfigDict, workdir: str | None) -> dict[str, rules.Choice]:
    """Return the open settings as the run in a directory has them, if it holds one."""
    if workdir is None or not run_directory.exists(workdir):
        return {}
    saved = run_directory.read_config(workdir)
    return {key: (saved[key], f"as in the run {workdir}") for key in open_settings(config)}


def _from_weights(config: ml_collections.ConfigDict) -> dict[str, rules.Choice]:
    """Return the open settings that the weights decide which the run starts from."""
    scheme, _, path = config.init.partition(":")
    if scheme == "keras_hub" and config.encoder is None:
        return {"encoder": (config.init, "that of config.init")}
    if scheme in ("saved_model", "keras"):
        network = loading.read_exported_network(scheme, path)
        values = {} if network is None else {"encoder": network.encoder, "stem": network.stem}
        named = {key: (value, f"that of {config.init}") for key, value in values.items()}
        return {key: choice for key, choice in named.items() if config[key] is None}
    if scheme != "run":
        return {}
    saved = run_directory.read_config(path)
    keys = ["encoder", "stem", "head"]
    if config.image_size is None:  # The two sizes belong together.
        keys += ["image_size", "evaluation_size"]
    return {key: (saved[key], f"that of {config.init}") for key in keys if config[key] is None}


def _with(config: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    planned = config.copy_and_resolve_references()
    for key, value in values.items():
        planned[key] = value
    return planned
