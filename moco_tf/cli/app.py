"""What all commands share: parsing flags and reporting mistakes in one line.

A command is a help text, a function that defines its flags and a function that runs it. Flags
belong to the call of the command, not to the process, so commands can be called from Python and
tests as often as needed.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from moco_tf import config_files, interrupts, keras_backend
from moco_tf.cli.config_file import ConfigFileParser
from moco_tf.cli.formats import in_commands
from moco_tf.cli.help import help_text
from moco_tf.cli.start import start_tensorflow
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand, expand_source

# The flags that are paths. So are --config, whose parser expands it, and the location in --data and
# --gallery_data.
PATH_FLAGS = (
    *("workdir", "out", "preview", "saved_model", "checkpoint", "output_dir", "tfds_dir"),
    "save_classifier",
)
# Examples of required flags.
EXAMPLES = {
    "config": "configs/photos.py",
    "data": "coco:PATH",
    "protocol": "knn",
    "workdir": "runs/photos",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A console command.

    Attributes:
        name: Name of the console command, such as `"moco-train"`.
        help: What `--help` prints before the flags, with the command called as in a checkout.
        define_flags: Function of the flag values to define flags in, and of the arguments.
        main: Function of the parsed flag values, which returns the exit status or None for 0.
        lists_settings: Whether `--help` lists the settings of a config.
    """

    name: str
    help: str
    define_flags: Callable[[flags.FlagValues, list[str]], None]
    main: Callable[[flags.FlagValues], int | None]
    lists_settings: bool = False


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command, and report a mistake of the user in one line.

    Args:
        command: The command to run.
        argv: Arguments without the name of the program; by default those of the process.

    Returns:
        The exit status: 0 for success, 2 for a mistake, 128 plus its number for a signal.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_script = argv is None and sys.argv[0].endswith(".py")
    _replace_closed_streams()
    _escape_what_cannot_be_encoded()
    values = flags.FlagValues()
    try:
        is_help = any(argument in ("--help", "-h") for argument in arguments)
        _define_flags(command, values, [] if is_help else arguments)
        if is_help:
            introduction = command.help if as_script else in_commands(command.help)
            print(help_text(introduction, values, command.lists_settings))
            return 0
        _parse(values, arguments)
        keras_backend.require_tensorflow()
        # Imports and TensorFlow's tracing run code that loses interrupts.
        with interrupts.remembered() as interrupted:
            start_tensorflow()
            interrupted.raise_again()
            return command.main(values) or 0
    except UserError as error:
        return _report(error, values, arguments, as_script)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has exited, such as `head`. The remaining output is discarded, so
        # that Python does not fail when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def require(values: flags.FlagValues, *names: str) -> None:
    """Raise a `UserError` unless each of the flags is present."""
    for name in names:
        if values[name].value is None:
            example = f"for example --{name}={EXAMPLES[name]}" if name in EXAMPLES else ""
            raise UserError(f"--{name} is required: {example or '--help lists all flags'}")


def define_config_flag(
    values: flags.FlagValues, arguments: list[str], help: str, default: str | None = None
) -> None:
    """Define `--config`, the path of a config file, and `--config.KEY` for each of its settings.

    A path is looked up in the current directory first, and then among the configs that are
    installed with the package, so that configs/photos.py is found from everywhere.

    Args:
        values: Flag values to define the flag in.
        arguments: The arguments that will be parsed, in which `--config.KEY` is looked for.
        help: Help text of the flag.
        default: Default path, or None.
    """
    config_flags.DEFINE_config_file(
        "config", help_string=help, flag_values=values, sys_argv=["", *arguments]
    )
    values["config"].parser = ConfigFileParser()
    if default is not None:
        values.set_default("config", default)


def define_strategy_flags(values: flags.FlagValues) -> None:
    """Define `--strategy`, `--tpu` and `--virtual_devices`."""
    group: dict[str, Any] = dict(flag_values=values, module_name="Devices")
    flags.DEFINE_string(
        "strategy",
        "default",
        "Distribution strategy: default (one device), mirrored (all GPUs of this machine), "
        "multiworker (several machines) or tpu.",
        **group,
    )
    flags.DEFINE_string(
        "tpu",
        None,
        "Name of the TPU, or local for the TPU of this machine (--strategy=tpu only).",
        **group,
    )
    flags.DEFINE_integer(
        "virtual_devices",
        1,
        "Number of logical devices to split the CPU into, 1 or greater (--strategy=mirrored only).",
        **group,
    )


def make_strategy(values: flags.FlagValues) -> Any:
    """Return the `tf.distribute.Strategy` that these flags ask for.

    Raises:
        UserError: If the flags contradict each other, or `strategies.make_strategy` fails.
    """
    from moco_tf import strategies

    name, devices = values.strategy, values.virtual_devices
    if name not in strategies.STRATEGIES:
        raise UserError(f"--strategy={name}: choose one of {', '.join(strategies.STRATEGIES)}")
    if values.tpu and name != "tpu":
        raise UserError(f"--tpu={values.tpu} requires --strategy=tpu, not --strategy={name}")
    if name == "tpu" and not values.tpu:
        raise UserError("--strategy=tpu requires --tpu: the name of the TPU, or local")
    if devices != 1:
        if name != "mirrored":
            raise UserError(
                f"--virtual_devices={devices} requires --strategy=mirrored, not --strategy={name}"
            )
        if devices < 1:
            raise UserError(f"--virtual_devices={devices}: must be 1 or greater")
        strategies.split_cpu(devices)
    return strategies.make_strategy(name, values.tpu)


def _define_flags(command: Command, values: flags.FlagValues, arguments: list[str]) -> None:
    with _parsing_errors(arguments):
        command.define_flags(values, arguments)
        flags.DEFINE_bool(
            "debug",
            False,
            "Whether to show the traceback of an error.",
            flag_values=values,
            module_name="Debugging",
        )


def _parse(values: flags.FlagValues, arguments: list[str]) -> None:
    with _parsing_errors(arguments):
        _, *rest = values(["", *arguments])
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': flags have the form --name=value")
    _expand_paths(values)


def _expand_paths(values: flags.FlagValues) -> None:
    """Expand `~` and environment variables in the flags and settings that are paths.

    The config of a run holds the expanded paths. The same command gives the same config, and the
    run can be read where a variable is not set.
    """
    for name in PATH_FLAGS:
        if name in values and values[name].value is not None:
            values[name].value = expand(str(values[name].value), f"--{name}")
    for name in ("data", "gallery_data"):
        if name in values and values[name].value is not None:
            if not values[name].value:
                raise UserError(f"--{name} is empty: name a data source, such as folder:PATH")
            values[name].value = expand_source(str(values[name].value), f"--{name}")
    config: Any = values["config"].value if "config" in values else None
    if config is not None:
        config_files.expand_paths(config)


@contextlib.contextmanager
def _parsing_errors(arguments: list[str]) -> Iterator[None]:
    """Turn the errors of absl and ml_collections into a `UserError`."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            raise UserError(f"--{error.flagname} requires --config, the file to change") from error
        names = [
            f"--{name}" for name in re.findall(r"\w+", str(error).partition("Did you mean: ")[2])
        ]
        hint = f"did you mean {' or '.join(names)}?" if names else "--help lists all flags"
        raise UserError(f"unknown flag --{error.flagname}: {hint}") from error
    except flags.DuplicateFlagError as error:
        configs = [a for a in arguments if re.match("--?config(=|$)", a)]
        if len(configs) < 2:
            raise
        raise UserError(f"{' '.join(configs)}: give one config file") from error
    except flags.Error as error:
        raise UserError(_plain(str(error))) from error
    except (AttributeError, KeyError) as error:  # ml_collections, for a key that does not exist
        key = re.search(r"\w+", str(error))
        name = key.group() if key else ""
        overrides = [a for a in arguments if a.startswith("--config.") and f"{name}=" in a]
        suggestion = re.search(r'Did you mean "(\w+)"', str(error))
        hint = f"did you mean {suggestion[1]}? " if suggestion else ""
        raise UserError(
            f"{overrides[0] if overrides else name}: there is no such setting; {hint}"
            "python train.py --help lists all settings"
        ) from error
    except (TypeError, ValueError) as error:  # ml_collections, for a value of another type
        overrides = [a for a in arguments if a.startswith("--config")]
        raise UserError(f"{' '.join(overrides)}: {config_files.last_line(error)}") from error


def _plain(message: str) -> str:
    """Return an error message of absl in plain words, with the closest valid choice."""
    message = message.removeprefix("flag ")
    message = re.sub(r"invalid literal for int\(\).*", "must be an integer", message)
    message = re.sub(r"could not convert string to float.*", "must be a number", message)
    message = re.sub(r"\('Non-boolean argument.*", "must be True or False", message)
    if choice := re.fullmatch(r"(--\w+=(.*)): value should be one of <(.*)>", message):
        argument, value, names = choice[1], choice[2], choice[3].split("|")
        similar = difflib.get_close_matches(value, names, n=1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        return f"{argument}: {hint}choose one of {', '.join(names)}"
    return message


def _report(
    error: UserError, values: flags.FlagValues, arguments: list[str], as_script: bool
) -> int:
    if "--debug" in arguments or ("debug" in values and values["debug"].value):
        traceback.print_exception(error)
    message = printable(" ".join(str(error).split()))
    message = message if as_script else in_commands(message)
    # Commands that read images without a config have a flag for each setting of the images.
    message = re.sub(
        r"(?<!-)config\.data\.(\w+)",
        lambda match: f"--{match[1]}" if match[1] in values else match[0],
        message,
    )
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"error: {message}\n")):
        with contextlib.suppress(OSError):  # The exit status says it where no output can.
            print(text, end="", file=stream, flush=True)
    if "strategy" in values and values["strategy"].value == "multiworker":
        # TensorFlow's own shutdown may wait for a worker that is gone, while the others wait for
        # this one.
        os._exit(2)
    return 2


def _replace_closed_streams() -> None:
    """Discard the output of a process that was started without standard output or error.

    The null device takes their file descriptors, which are the lowest that are free. Otherwise a
    file of the run would get one of them, and what a library prints would be written into it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w"))


def _escape_what_cannot_be_encoded() -> None:
    """Let the output of a command pass a terminal whose encoding lacks some characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
