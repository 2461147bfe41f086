"""Commands, settings and paths on the pages of the documentation exist.

The commands are parsed with their own flags and configs; nothing is run.
"""

import importlib
import pathlib
import re
import shlex
import string

import pytest
from absl import flags

from moco_tf.cli import app, demo, embed, evaluate, prepare, train
from moco_tf.cli.formats import FORMATS
from moco_tf.config import default_config, flatten
from moco_tf.errors import UserError
from moco_tf.seeds import PURPOSES
from studies import __main__ as study
from studies.transfer import __main__ as transfer_study

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "examples").glob("*.md")),
]

COMMANDS = {
    "train.py": train.COMMAND,
    "evaluate.py": evaluate.COMMAND,
    "embed.py": embed.COMMAND,
    "moco-embed": embed.COMMAND,
    "prepare.py": prepare.COMMAND,
    "moco-prepare": prepare.COMMAND,
    "moco-train": train.COMMAND,
    "moco-evaluate": evaluate.COMMAND,
    "moco-demo": demo.COMMAND,
}

STUDIES = {"studies": study, "studies.transfer": transfer_study}

SEPARATORS = re.compile(r"[;&|()<>]+")
# A word in capitals, or an ellipsis, stands for a value that the reader chooses.
PLACEHOLDER = re.compile(r"[A-Z_]+|\.\.\.|…")
REPOSITORY_PATH = re.compile(
    r"`((?:configs|moco_tf|studies|benchmarks|tests|docs|export)/[\w./*-]*\w[\w./*-]*)`"
)
INLINE_SETTING = re.compile(r"--config\.([a-z_.]*[a-z_])")


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def text(request):
    """Return the text of a page."""
    return request.param.read_text(encoding="utf-8")


def bash_blocks(text):
    """Return the contents of the bash blocks of a page."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def simple_commands(text):
    """Return the words of every simple command in the bash blocks of a page.

    Variables that a block assigns, such as STEPS=300, are replaced by their values on the whole
    page.
    """
    variables = {}
    found = []
    for block in bash_blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = []
            for word in [*lexer, ";"]:
                if not SEPARATORS.fullmatch(word):
                    words.append(string.Template(word).safe_substitute(variables))
                    continue
                while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL):
                    name, _, value = words.pop(0).partition("=")
                    variables[name] = value
                found += [words] if words else []
                words = []
    return found


def parse(words):
    """Parse a command of this project, given by its words; other commands are ignored.

    Returns whether it is a command of this project.
    """
    for position, word in enumerate(words):
        if word == "moco-export":
            name, *arguments = words[position + 1 :] or ["--help"]
            if name not in ("--help", "FORMAT"):
                parse_flags(export_command(FORMATS.get(name, name)), arguments)
            return True
        previous = pathlib.PurePath(words[position - 1]).name if position else ""
        is_script = previous in ("python", "python3") or words[position - 1 : position] == ["-m"]
        if is_script and re.fullmatch(r"export/\w+\.py", word):
            parse_flags(export_command(pathlib.PurePath(word).stem), words[position + 1 :])
            return True
        if word in STUDIES and is_script:
            parse_flags(command_of(STUDIES[word].main), words[position + 1 :])
            return True
        if word in COMMANDS and (word.startswith("moco-") or is_script):
            parse_flags(COMMANDS[word], words[position + 1 :])
            return True
        if is_script and re.match(r"(docs|benchmarks|studies)/", word):
            if not (ROOT / word).exists():
                raise UserError(f"there is no {word}")
            return True
    return False


def export_command(module):
    """Return the command of a module in export/."""
    if module not in FORMATS.values():
        raise UserError(f"there is no export format {module}")
    return command_of(importlib.import_module(f"moco_tf.export.{module}").main)


def command_of(main):
    """Return the `app.Command` that a main function runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "run", lambda command, argv=None: command)
        return main([])


def parse_flags(command, arguments):
    """Parse the arguments of a command as `app.run` does, without running it."""
    if "--help" in arguments:
        return
    # A config file of the reader's own could be any.
    arguments = [
        "--config=configs/folder.py"
        if argument.startswith("--config=") and not argument.startswith("--config=configs/")
        else argument
        for argument in arguments
    ]
    values = flags.FlagValues()
    app._define_flags(command, values, arguments)
    known = [a for a in arguments if not PLACEHOLDER.fullmatch(a.partition("=")[2])]
    app._parse(values, known)
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        # Of a placeholder only the name can be checked; "--config.x" counts if there is a config.
        assert name in values or name.removeprefix("no") in values or name.startswith("config."), (
            f"unknown flag {argument}"
        )


def test_commands_have_only_flags_and_settings_that_exist(text):
    for words in simple_commands(text):
        try:
            parse(words)
        except UserError as error:
            pytest.fail(f"{shlex.join(words)}: {error}")


def test_commands_can_be_copied_into_zsh(text):
    """The shell of macOS takes `#` for a comment in scripts only, and has no unmatched patterns."""
    for block in bash_blocks(text):
        if block.startswith("#!"):
            continue
        for line in block.splitlines():
            is_comment = line.lstrip().startswith("#")
            unquoted = line if is_comment else re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
            forbidden = "[][*?'\"`;&|<>()$]" if is_comment else r"[][*?]| #"
            assert not re.search(forbidden, unquoted), line


def test_make_targets_exist(text):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
    for words in simple_commands(text):
        if words[0] == "make":
            called = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(called) <= set(targets)


def test_settings_in_the_text_exist(text):
    settings = {*flatten(default_config()), "data"}
    # A recipe's flag, such as `--config=configs/photos.py`, has no dot after "config".
    unknown = {name for name in INLINE_SETTING.findall(text) if name not in settings}
    assert not unknown


def test_paths_in_the_text_exist(text):
    missing = [
        path
        for path in REPOSITORY_PATH.findall(text)
        if not re.search(r"[A-Z]{3}", pathlib.PurePath(path).stem.replace("README", ""))
        and not any(ROOT.glob(path.rstrip("/")))
    ]
    assert not missing


def test_tests_in_the_text_exist():
    text = (ROOT / "docs" / "reliability.md").read_text()
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(names) > 20
    for path, name in names:
        assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


def test_architecture_names_the_shared_modules_and_the_random_choices():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "moco_tf").glob("*.py")} - {"__init__.py"}
    assert not [name for name in modules if f"`moco_tf/{name}`" not in text]
    assert not [purpose for purpose in PURPOSES if f"`{purpose}`" not in text]


def test_numbers_of_the_study_on_the_results_page_are_those_of_the_study():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## The study")
    section, _, _ = section.partition("\n## ")
    numbers = re.findall(r"\d+\.\d ± \d+\.\d", section)
    study_page = (ROOT / "studies" / "photos" / "README.md").read_text(encoding="utf-8")
    assert numbers
    assert not [number for number in numbers if number not in study_page]


def test_parse_finds_mistakes():
    for line, mistake in {
        "python train.py --config=configs/photos.py --wrkdir=runs/a": "workdir",
        "moco-train --config=configs/photos.py --config.que_size=3 --workdir=runs/a": "que_size",
        "moco-train --config=configs/photo.py --workdir=runs/a": "no such file",
        "cd runs && moco-evaluate --protocol=knn --neighbors=3": "neighbors",
        "SEED=one; moco-train --config=configs/photos.py --config.seed=$SEED": "one",
        "srun python evaluate.py --protocol=knm --workdir=runs/a  # comment": "protocol",
        "moco-export onnx --workdir=runs/a --output=b": "output",
        ".venv/bin/python export/keras_v3.py --work=runs/a": "work",
        "python -m studies --onyl=momentum": "onyl",
        "python benchmarks/train_steps.py": "there is no",
    }.items():
        commands = simple_commands(f"```bash\n{line}\n```\n")
        with pytest.raises(UserError, match=mistake):
            parse(commands[-1])


def test_parse_accepts_placeholders_and_ignores_other_commands():
    block = """
        # train.py --no_such_flag
        pip install '.[onnx]'
        CUDA_VISIBLE_DEVICES=0 python train.py --config=mine.py \\
            --config.data.source=folder:PATH --config.batch_size=... --workdir=DIR
        moco-export FORMAT --help
    """
    block = "\n".join(line.strip() for line in block.splitlines())
    parsed = [parse(words) for words in simple_commands(f"```bash\n{block}\n```\n")]
    assert parsed == [False, True, True]
