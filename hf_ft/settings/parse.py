"""Command lines: all settings as options of a parser, and what was parsed as layers of settings.

Own code on top of argparse rather than typer: the hundred and more options come from `Config` and from the source of
`TrainingArguments`, not from the signature of a function, and help has to answer without importing either.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_ft.errors import unknown
from hf_ft.settings.argument_parser import WIDTH, Parser
from hf_ft.settings.merge import ALIASES, FORMER, annotation_of, build
from hf_ft.settings.plan_yaml import read_yaml
from hf_ft.settings.schema import SECTIONS, Config, Section, config_fields
from hf_ft.settings.training_arguments import training_fields

if TYPE_CHECKING:
    from transformers import TrainingArguments

Layer = tuple[str, Any]
TRAINING_ARGUMENTS = (
    "Every field of transformers.TrainingArguments is an option as well, such as --learning_rate, --num_train_epochs, "
    "--per_device_train_batch_size, --seed, --bf16, --gradient_checkpointing or --report_to. --help_training lists "
    "them."
)


def add_settings(parser: Parser, without: Sequence[str] = ()) -> None:
    """Add every setting as an option, ours by group and with help, those of `TrainingArguments` by name alone.

    Args:
        without: Settings that are no options here, or that `parser` has in another form.
    """

    def check(written: str) -> None:
        others = [action.dest for action in parser._actions]
        annotation_of(written[2:].replace("-", "_"), written, "the command line", others)

    parser.check_option = check
    shared = parser.add_argument_group("settings")
    shared.add_argument("--config", metavar="FILE.yaml", help="settings as `option: value`; the command line wins")
    shared.add_argument("--output_dir", metavar="OUT", default=argparse.SUPPRESS, help="folder for the result")
    shared.add_argument(
        "--help_training",
        action=_ListTraining,
        nargs=0,
        default=argparse.SUPPRESS,
        help="list the fields of TrainingArguments and exit",
    )
    groups: dict[type[Section], Any] = {}
    for section in SECTIONS:
        for name, item in section.own_options().items():
            if name not in without:
                if section not in groups:
                    groups[section] = parser.add_argument_group(section.title)
                _add(groups[section], name, str(item.type), _with_default(item))
    hidden = parser.add_argument_group("training arguments")
    for name, entry in training_fields().items():
        if name != "output_dir" and name not in without:
            _add(hidden, name, entry.annotation, argparse.SUPPRESS)
    for name in ALIASES:
        _add(hidden, name, "str", argparse.SUPPRESS)
    parser.epilog = f"{parser.epilog}\n\n{TRAINING_ARGUMENTS}" if parser.epilog else TRAINING_ARGUMENTS


def _with_default(item: dataclasses.Field[Any]) -> str:
    choices = item.metadata["choices"]
    text = item.metadata["help"] + (f" [{' | '.join(choices)}]" if choices else "")
    shown = not (item.default is None or item.default is False or item.default == "") and "(default" not in text
    return (f"{text} (default: {item.default})" if shown else text).replace("%", "%%")


def _add(group: Any, name: str, annotation: str, help: str) -> None:
    # A bare `--bf16` means true; every other option wants a value, which `normalise` converts and checks.
    flag = {"nargs": "?", "const": "true"} if "bool" in annotation or name == "resume" else {}
    metavar = next((word for kind, word in (("int", "N"), ("float", "X"), ("bool", "BOOL")) if kind in annotation), "")
    group.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=metavar or "TEXT", help=help, **flag)


class _ListTraining(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for name, entry in training_fields().items():
            if name in FORMER:
                continue
            text = " ".join(entry.help.split())
            print(f"--{name} ({entry.annotation})")
            print(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")) if text else None
        parser.exit(0)


def settings_layers(options: Mapping[str, Any]) -> list[Layer]:
    """Turn parsed options into layers for `build`: the YAML file of `--config`, if any, then the options themselves.

    Raises:
        UserError: a file that cannot be read.
    """
    own = dict(options)
    path = own.pop("config", None)
    layers: list[Layer] = [] if path is None else [(path, read_yaml(path, "config", "`option: value` lines"))]
    return [*layers, ("the command line", own)]


@dataclass(frozen=True)
class Command:
    """What a script has besides settings.

    `options` maps names to `(metavar, help)`; one with the name of a setting replaces it. `without` are settings that
    it does not take. `usage` shows what it needs.
    """

    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    without: Sequence[str] = ()
    usage: str = "[options]"


def command_line(
    argv: Sequence[str] | None, description: str = "", prog: str | None = None, command: Command | None = None
) -> list[Layer]:
    """The settings on the command line of a script, as layers for `build`.

    Options of a `command` are among them; the caller takes them out.

    Raises:
        UserError: unknown options (with the nearest), or words that belong to no option.
    """
    command = command or Command()
    parser = Parser(prog, description, usage=f"{prog or '%(prog)s'} {command.usage}")
    own = parser.add_argument_group("script") if command.options else None
    for name, (metavar, text) in command.options.items():
        assert own is not None
        own.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=text.replace("%", "%%"))
    add_settings(parser, (*command.without, *command.options))
    options, rest = parser.parse_known_args(argv)
    parser.refuse(rest)
    return settings_layers(vars(options))


def parse_recipe(
    config: Mapping[str, Any], training: Mapping[str, Any], argv: Sequence[str] | None = None, description: str = ""
) -> tuple[Config, TrainingArguments]:
    """Settings of a recipe: its own two dictionaries, then `--config FILE.yaml`, then the command line.

    Raises:
        UserError: see `build`; a recipe run as a script prints it and exits with code 2 (`hf_ft.cli.run`).
    """
    _check_keys(config, config_fields(), "CONFIG")
    _check_keys(training, training_fields(), "TRAINING")
    settings = build(("the recipe", {**config, **training}), *command_line(argv, description))
    return settings.config, settings.arguments()


def _check_keys(settings: Mapping[str, Any], options: Iterable[str], where: str) -> None:
    known = list(options)
    for name in settings:
        if name not in known:
            raise unknown(name, known, f"setting in {where}:")
