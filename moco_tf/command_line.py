"""What every script does alike: a quiet start, and mistakes in one line with exit status 2.

Importing this module imports TensorFlow, without the half page it writes to the terminal.
"""

import contextlib
import os
import re
import sys
import tempfile

from absl import app, flags, logging
from ml_collections import config_flags


def _leave_script_directory():
    # Python looks for modules beside the script first, and export/keras.py is not Keras. What is
    # above it, the checkout, stands in its place.
    directory = os.path.dirname(os.path.abspath(sys.argv[0]))
    if os.path.basename(directory) == "export":
        sys.path[:] = [
            os.path.dirname(directory) if os.path.abspath(path) == directory else path
            for path in sys.path
        ]


_leave_script_directory()


def _import_tensorflow_quietly():
    # Before its logging is set up, TensorFlow writes past every setting straight to the terminal.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    tf.get_logger().setLevel("ERROR")


if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:  # whoever sets it wants to read what it says
    _import_tensorflow_quietly()

from moco_tf import scripts  # noqa: E402
from moco_tf.errors import UserError  # noqa: E402

flags.disclaim_key_flags()  # so that --help of a script has those that are defined here for it


def run(main):
    """Parses the flags and runs `main(argv)`, whose result is the exit status."""
    logging.set_verbosity(logging.WARNING)
    app.run(_one_line_errors(main), flags_parser=_parse_flags)


def require(*names):
    """Raises a `UserError` unless each of the flags was given."""
    for name in names:
        if flags.FLAGS[name].value is None:
            raise UserError(f"--{name} is missing: see {sys.argv[0]} --help")


def define_config_flag(help_string, default=None):
    """Defines --config, of a file with a function `get_config`, and --config.KEY for its settings.

    A path is looked for in the current directory, and then beside the scripts: configs/photos.py is
    found from everywhere.

    Args:
        help_string: str.
        default: str, a path; by default none.

    Returns:
        An `absl.flags.FlagHolder` of an `ml_collections.ConfigDict`.
    """
    holder = config_flags.DEFINE_config_file("config", help_string=help_string)
    flag = flags.FLAGS["config"]
    flag.parser = _ConfigFile(flag.parser)
    if default is not None:
        with _one_line_flag_errors(sys.argv):  # --config.KEY is looked up at once
            flags.set_default(holder, default)
    return holder


class _ConfigFile(flags.ArgumentParser):
    """ml_collections' parser, given the path that is meant."""

    def __init__(self, parser):
        self.parser = parser

    def parse(self, path):
        if scripts.FOLDER not in sys.path:
            sys.path.append(scripts.FOLDER)  # our configs import each other
        ours = os.path.join(scripts.FOLDER, path)
        if os.path.exists(ours) and not os.path.exists(path):
            path = ours
        try:
            return self.parser.parse(path)
        except (TypeError, ValueError) as error:  # ml_collections', with a whole traceback in it
            raise ImportError(str(error).strip().splitlines()[-1]) from error

    def flag_type(self):
        return self.parser.flag_type()


def define_strategy_flags():
    """Defines --strategy, --tpu and --virtual_devices, for a script that trains or evaluates."""
    flags.DEFINE_string(
        "strategy", "default", "tf.distribute strategy: default, mirrored, multiworker or tpu."
    )
    flags.DEFINE_string("tpu", None, "The TPU's name, or local, for --strategy=tpu.")
    flags.DEFINE_integer(
        "virtual_devices", 1, "Logical devices to split the CPU into, for --strategy=mirrored."
    )


def make_strategy():
    """The `tf.distribute.Strategy` that these flags ask for.

    Raises:
        UserError: flags that do not go together; and what `distribution.make_strategy` raises.
    """
    from moco_tf import distribution

    name, devices = flags.FLAGS.strategy, flags.FLAGS.virtual_devices
    if devices != 1:
        if name != "mirrored":
            raise UserError(
                f"--virtual_devices={devices} is for --strategy=mirrored, and it is "
                f"--strategy={name}"
            )
        distribution.split_cpu(devices)
    return distribution.make_strategy(name, flags.FLAGS.tpu)


def _parse_flags(argv):
    if any(argument in ("--help", "-h") for argument in argv):
        # TensorFlow's own flags would fill --helpfull; this is about the script.
        about = sys.modules["__main__"].__doc__
        is_command = not sys.argv[0].endswith(".py")
        print(scripts.in_commands(about) if is_command else about)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    with _one_line_flag_errors(argv):
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            # A config file that failed to load says so only when it is read.
            flags.FLAGS["config"].value.to_json_best_effort()
        if len(rest) > 1:
            raise UserError(f"'{rest[1]}' is not a flag: flags look like --name=value")
        return rest


@contextlib.contextmanager
def _one_line_flag_errors(argv):
    try:
        yield
    except UserError as error:
        _fail(error)
    except flags.Error as error:
        _fail(error)
    except (AttributeError, KeyError) as error:
        key = re.search(r"\w+", str(error)).group()
        given = [a for a in argv if a.startswith("--config.") and f"{key}=" in a]
        hint = re.search(r'Did you mean "\w+"', str(error))
        _fail(
            f"{given[0] if given else key}: there is no such setting; "
            f"{hint.group() + '? ' if hint else ''}moco_tf/config.py lists them all"
        )
    except (ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        given = " ".join(a for a in argv if a.startswith("--config="))
        _fail(f"{given} cannot be loaded: {str(error).strip().splitlines()[-1]}")


def _one_line_errors(main):
    def wrapped(argv):
        try:
            return main(argv)
        except UserError as error:
            if "strategy" in flags.FLAGS and flags.FLAGS.strategy == "multiworker":
                # At once: TensorFlow's own end may wait for a worker that is gone, while the others
                # would wait for this one.
                _print_error(error)
                os._exit(2)
            _fail(error)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130

    return wrapped


def _fail(message):
    _print_error(message)
    sys.exit(2)


def _print_error(message):
    sys.stdout.flush()
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
