"""The text that a command prints for --help."""

from typing import Any

from absl import flags

from moco_tf.settings import FROM_PRESET, GROUPS

WIDTH = 80
DEFAULTS_NOTE = (
    "The defaults of the settings are those of the paper; a config file changes some of them."
)


def help_text(introduction: str, values: flags.FlagValues, lists_settings: bool) -> str:
    """Return the help of a command: an introduction, its flags, and the settings of a config.

    Args:
        introduction: What the command does, with examples.
        values: The flags, with their help texts.
        lists_settings: Whether to list the settings of a config.
    """
    lines = [introduction.strip()]
    for group, members in _groups(values).items():
        lines += ["", f"{group}:"]
        for flag in members:
            name = f"{'[no]' if flag.boolean else ''}{flag.name}"
            # Of a config file, `default` is the content, and `default_unparsed` the path.
            lines += _entry(name, flag.help, "", flag.default_unparsed)
    if lists_settings:
        lines += ["", flags.text_wrap(DEFAULTS_NOTE, WIDTH)]
        for group, settings in GROUPS.items():
            lines += ["", f"Settings of the config: {group.lower()}"]
            for setting in settings:
                default = FROM_PRESET if setting.default is None else setting.default
                lines += _entry(f"config.{setting.key}", setting.help, str(setting.range), default)
    return "\n".join(lines)


def _groups(values: flags.FlagValues) -> dict[str, list[flags.Flag]]:
    groups: dict[str, list[flags.Flag]] = {}
    for group, members in values.flags_by_module_dict().items():
        if group != "absl.flags":
            # A flag without a group of its own is filed under the module that defines it.
            groups.setdefault("Flags" if "." in group else group, []).extend(members)
    return groups


def _entry(name: str, text: str, limits: str, default: Any) -> list[str]:
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    facts = [limits] if limits else []
    if default not in (None, ""):
        facts.append(f"default: {str(default).lower() if isinstance(default, bool) else default}")
    return [
        f"  --{name}",
        flags.text_wrap(f"{text} ({'; '.join(facts)})" if facts else text, WIDTH, "      "),
    ]
