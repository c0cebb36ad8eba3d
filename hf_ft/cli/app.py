"""The command `hf-ft`: train, compare, depth, rank, models, inspect, methods, evaluate, predict, push, cache, env.

Nothing heavy is imported before the options have been checked, so help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft import __version__
from hf_ft.environment import Terminated, quiet_libraries
from hf_ft.errors import UserError, choose
from hf_ft.settings import check_range
from hf_ft.storage import COMPARISON, SEARCH, check_new_file, read_record, read_run

if TYPE_CHECKING:
    from hf_ft.models import Source


GO_ON = "hf-ft train goes on with --resume, others with the same command (without --overwrite_output_dir)"
EXIT_CODES = (
    "Exit codes: 0 success; 2 a mistake in what was given, or a disk that takes no more; 130 Ctrl-C, 143 SIGTERM, 129 "
    "SIGHUP, 138 SIGUSR1: training has written a checkpoint after the step that was running, and --resume goes on."
)


def run(command: Callable[[], Any]) -> int:
    """Run a command; a mistake of the user's becomes one line on stderr and exit code 2."""
    try:
        with quiet_libraries():
            try:
                command()
            finally:
                sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has seen enough, as in `hf-ft methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return 141  # what a shell says of a process that SIGPIPE ended
    except UserError as error:
        told = str(error).encode("utf-8", "backslashreplace").decode()  # a name that is no UTF-8 can be printed, too
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {GO_ON}", file=sys.stderr)
        return 130
    except Terminated as told:
        print(f"ended by {told.name}; {GO_ON}", file=sys.stderr)
        return int(str(told.code))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `hf-ft`; returns the exit code (`EXIT_CODES`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        return run(lambda: print(_overview()))
    if words[0] == "--version":
        return run(lambda: print(f"hf-ft {__version__}"))
    name, rest = words[0], words[1:]
    return run(lambda: COMMANDS[choose(name, COMMANDS, "command", "See hf-ft --help.")](rest))


def _overview() -> str:
    lines = [f"  {name:10} {(command.__doc__ or '').splitlines()[0].rstrip('.')}" for name, command in COMMANDS.items()]
    return (
        "hf-ft: transfer learning on Hugging Face models\n\nusage: hf-ft COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nhf-ft COMMAND --help lists the options of a command.\n\n"
        + "\n".join(textwrap.wrap(EXIT_CODES, 79))
        + "\n\n"
        "example: hf-ft train --task image_classification --model google/vit-base-patch16-224-in21k \\\n"
        "           --dataset AI-Lab-Makerere/beans --method lp_ft --output_dir beans"
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are `UserError`s, like all others."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse empty texts, as an unset variable of a shell makes them: they would mean the default, or `.`."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            if getattr(found, action.dest, None) == "":
                option = action.option_strings[0] if action.option_strings else str(action.metavar)
                raise UserError(f"{option} is empty. Give a value, or leave it out. See {self.prog} --help.")
        return found, rest


def _parser(name: str, command: Callable[..., Any]) -> _Parser:
    return _Parser(prog=f"hf-ft {name}", description=(command.__doc__ or "").splitlines()[0], allow_abbrev=False)


def _check_result(folder: str) -> None:
    from hf_ft.settings import check_path

    check_path(str(Path(folder).expanduser().absolute()), "result folder")
    read_run(Path(folder).expanduser())


def train(argv: Sequence[str]) -> None:
    """Fine-tune a model on a data set and save it as a plain Hub model."""
    from hf_ft.finetuning import execute
    from hf_ft.settings import build, command_line

    execute(build(*command_line(argv, train.__doc__ or "", "hf-ft train")))


def _redrawn(layers: Sequence[tuple[str, Any]], holds: str) -> Path | None:
    """The folder whose pictures are to be drawn again, taken out of the options; None where that is not asked."""
    folder = layers[-1][1].pop("redraw", None)
    if folder is None:
        return None
    if layers[-1][1]:
        raise UserError(f"--redraw takes no other option: what is drawn stands in {holds}.")
    path = Path(folder).expanduser() / holds
    if holds == "compare.json":
        read_record(path, COMPARISON, "finished comparison")
    else:
        read_record(path, SEARCH, "finished search")
    return path.parent


def compare(argv: Sequence[str]) -> None:
    """Train several methods on one model and data set, and say which is best, how sure that is, and what it costs."""
    from hf_ft.settings import Command, command_line

    options = {
        "methods": (
            "A,B,...",
            "methods to compare, or `depths` (default: scratch,head,last_n:N,lora,lp_ft,full, N a third of the blocks)",
        ),
        "seeds": ("N", "how many seeds, or which: `0,7` (default: 3)"),
        "examples_per_class": ("N,M,...", "sizes of the training set, such as 10,30,100 (default: all examples)"),
        "redraw": ("OUT", "only draw table and pictures of a finished comparison again"),
    }
    usage = "--task T --model M --dataset D --output_dir OUT [options]\n       %(prog)s --redraw OUT"
    command = Command(options, without=("method", "plan", "keep_head"), usage=usage)
    layers = command_line(argv, compare.__doc__ or "", "hf-ft compare", command)
    folder = _redrawn(layers, "compare.json")
    if folder is not None:
        from hf_ft.experiments import redraw_comparison

        print("\n".join(str(path) for path in redraw_comparison(folder)))
        return
    from hf_ft.experiments import read_comparison_settings

    grid = read_comparison_settings(layers)
    from hf_ft.experiments import run_comparison

    run_comparison(grid)


def depth(argv: Sequence[str]) -> None:
    """Find how many blocks to freeze: short trainings at all depths, longer ones of the best."""
    from hf_ft.settings import Command, command_line

    options = {
        "depths": ("N,M,...", "numbers of frozen blocks to try: 0 is full, all are head (default: at most 9, spread)"),
        "seeds": ("N", "how many seeds, or which: `0,7` (default: 1)"),
        "redraw": ("OUT", "only write page and picture of a finished search again"),
    }
    usage = "--task T --model M --dataset D --output_dir OUT [options]\n       %(prog)s --redraw OUT"
    command = Command(options, without=("method", "plan"), usage=usage)
    layers = command_line(argv, depth.__doc__ or "", "hf-ft depth", command)
    folder = _redrawn(layers, "depth.json")
    if folder is not None:
        from hf_ft.experiments import redraw_depth

        print("\n".join(str(path) for path in redraw_depth(folder)))
        return
    from hf_ft.experiments import read_depth_settings

    asked = read_depth_settings(layers)
    from hf_ft.experiments import search

    search(asked)


def rank(argv: Sequence[str]) -> None:
    """Score candidate models on your data before training, by three scores and their cost."""
    from hf_ft.experiments import named_models, rank_models
    from hf_ft.finetuning import execute
    from hf_ft.models import SIZES
    from hf_ft.settings import command_line

    models = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    parser = _parser("rank", rank)
    parser.usage = "hf-ft rank MODEL... --task T --dataset D --output_dir OUT [options]"
    parser.epilog = (
        "MODEL is a Hub id, a folder or builtin. Every option of hf-ft train on model, data and cache is one here too; "
        "those on training hold for --confirm. Scores read at most 2,000 examples of train (--max_train_examples N) "
        "and nothing else. The same command again goes on where it was interrupted."
    )
    parser.add_argument("--list", metavar="FILE", help="more models, one on each line")
    parser.add_argument("--size", choices=SIZES, help="without MODEL: those of that size that hf-ft models lists")
    parser.add_argument("--confirm", metavar="K", type=int, default=0, help="fine-tune the first K (--method lp_ft)")
    options, rest = parser.parse_known_args(argv[len(models) :])
    layers = tuple(command_line(rest, rank.__doc__ or "", "hf-ft rank"))
    rank_models(named_models(models, options.list, options.size, layers), options.confirm, tuple(layers), execute)


def models(argv: Sequence[str]) -> None:
    """List pretrained models to start from, with size and licence."""
    from hf_ft.models import sources_for

    parser = _parser("models", models)
    parser.add_argument("--task", help="only those that do this task")
    parser.add_argument("--size", help="only those of this size: small, base or large")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    found = sources_for(options.task, options.size)
    if options.json:
        print(json.dumps([{**vars(source), "size": source.size} for source in found], indent=1))
    else:
        print(_model_list(found))


def _model_list(found: Sequence[Source]) -> str:
    lines = []
    for (modality, size), group in itertools.groupby(found, lambda source: (source.modality, source.size)):
        unit = "px" if modality == "image" else "tokens"
        lines += ["", f"{modality.capitalize()}s, {size}", ""]
        for source in group:
            lines.append(f"{source.name:46}{source.parameters:6.1f}M  {source.licence:11}{source.reads:5} {unit}")
            lines += _hanging(" " * 4, source.remark)
    return "\n".join([*lines[1:], "", "Which of them suits your data: hf-ft rank MODEL... or hf-ft rank --size small."])


def methods(argv: Sequence[str]) -> None:
    """List the methods: what trains, when to use it, paper."""
    parser = _parser("methods", methods)
    parser.add_argument("--peft", action="store_true", help="list the methods of PEFT that peft:NAME takes")
    options = parser.parse_args(argv)
    print(_peft_list() if options.peft else _method_list())


def _method_list() -> str:
    from hf_ft.methods import METHODS

    lines = []
    for method in METHODS.values():
        lines += _hanging(f"{method.spelled:13} ", f"trains {method.trains}")
        lines += _hanging(" " * 14, method.when)
        lines.append(" " * 14 + method.paper)
    return "\n".join([*lines, "", "Stages of your own: --plan FILE.yaml. Methods of PEFT: hf-ft methods --peft."])


def _peft_list() -> str:
    from hf_ft.methods import REFUSED, mergeable, preset

    lines = [
        "Merge into plain weights; learning rates that they start from:",
        "",
        f"{'':20} {'texts':>8} {'images':>8}",
    ]
    lines += [f"peft:{name:15} {preset(name).text:8g} {preset(name).image:8g}" for name in mergeable()]
    lines += ["", "Refused, since they do not merge:", ""]
    for name, reason in REFUSED.items():
        lines += _hanging(f"peft:{name:24} ", reason)
    return "\n".join(lines)


def _hanging(name: str, text: str) -> list[str]:
    """A name and its text, wrapped at 80 columns beside it."""
    return textwrap.wrap(text, 79, initial_indent=name, subsequent_indent=" " * len(name))


def inspect(argv: Sequence[str]) -> None:
    """Show a model's depth groups, what its head reads, and what a method would do to it."""
    parser = _parser("inspect", inspect)
    parser.add_argument("model", metavar="MODEL", help="Hub id, folder, builtin or timm:ARCHITECTURE")
    parser.add_argument("--task", default=None, help="task (default: found from the model)")
    parser.add_argument("--method", default="head", help="method whose settings are shown")
    parser.add_argument("--plan", metavar="FILE.yaml", help="stages of your own to show instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--picture", metavar="FILE", help="draw the groups there: .png or .svg")
    parser.add_argument("--overwrite", action="store_true", help="replace that picture if it exists")
    options = parser.parse_args(argv)
    from hf_ft.methods import parse_method
    from hf_ft.settings import check_path, not_made, read_yaml

    parse_method(options.method)
    plan = read_yaml(options.plan, "plan", "`stages:` and a list") if options.plan else None
    if not options.model.startswith(("builtin", "timm:")):
        check_path(options.model, "model")
    picture = Path(options.picture).expanduser() if options.picture else None
    if picture is not None:
        if picture.suffix not in (".png", ".svg"):
            raise UserError(f"--picture {picture}: draw to a file that ends in .png or .svg.")
        check_path(str(picture.absolute().parent), "folder for the picture")
        if why := "" if picture.is_file() else not_made(picture.absolute()):
            raise UserError(f"--picture {picture} cannot be written: {why}. Choose another file.")
        check_new_file(picture, "--picture", [options.model], options.overwrite)
    from hf_ft.inspection import inspect_model

    print(inspect_model(options.model, options.task, options.method, options.json, plan, picture))


def evaluate(argv: Sequence[str]) -> None:
    """Score a trained model on a data set."""
    parser = _parser("evaluate", evaluate)
    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument("--dataset", required=True, help="Hub id, folder or file")
    parser.add_argument("--split", help="split to score (default: test, else validation, else train)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    from hf_ft.settings import check_path

    check_path(options.dataset, "dataset")
    _check_result(options.folder)
    from hf_ft.evaluation import evaluate_folder

    print(evaluate_folder(Path(options.folder), options.dataset, options.split, options.json))


def predict(argv: Sequence[str]) -> None:
    """Predict labels for image files, folders, CSV or JSON lines, or plain lines of text."""
    parser = _parser("predict", predict)
    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="files or folders; for text models also text itself, and - for lines of standard input",
    )
    parser.add_argument("--output", metavar="FILE", help="write .csv or .jsonl there (default: CSV on the screen)")
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it exists")
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args(argv)
    _check_result(options.folder)
    check_range("per_device_eval_batch_size", options.batch_size, "--batch_size")
    if options.output and not options.output.endswith((".csv", ".jsonl")):
        raise UserError(f"--output {options.output}: write to a file that ends in .csv or .jsonl.")
    if options.output:
        check_new_file(Path(options.output).expanduser(), "--output", options.inputs, options.overwrite)
    from hf_ft.evaluation import predict_inputs

    predict_inputs(Path(options.folder), options.inputs, options.output, options.batch_size)


def push(argv: Sequence[str]) -> None:
    """Publish a trained model on the Hub, after showing what would be published."""
    parser = _parser("push", push)
    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument("--repo_id", required=True, help="name on the Hub: me/name")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--dry_run", action="store_true", help="only show what would be published")
    options = parser.parse_args(argv)
    _check_result(options.folder)
    from hf_ft.results import push as publish

    print("\n".join(publish(Path(options.folder), options.repo_id, options.private, options.dry_run)))


def cache(argv: Sequence[str]) -> None:
    """List or clear what frozen layers gave and was kept for later runs."""
    parser = _parser("cache", cache)
    parser.add_argument("action", metavar="ACTION", nargs="?", help="list, or clear")
    parser.add_argument(
        "--cache_dir", metavar="FOLDER", help="folder of the cache (default: HF_FT_CACHE, else HF_HOME)"
    )
    parser.add_argument("--older_than", metavar="DAYS", type=float, help="clear only what was not used for so long")
    options = parser.parse_args(argv)
    if options.action is None:
        raise UserError("Say what to do with the cache: list or clear. See hf-ft cache --help.")
    choose(options.action, ("list", "clear"), "action", "See hf-ft cache --help.")
    if options.older_than is not None and options.action == "list":
        raise UserError("--older_than belongs to hf-ft cache clear.")
    if options.older_than is not None:
        check_range("older_than", options.older_than, "--older_than")
    from hf_ft.feature_cache import clear_cache, default_root, format_size
    from hf_ft.settings import check_path

    root = Path(options.cache_dir).expanduser().absolute() if options.cache_dir else default_root()
    if options.cache_dir:
        check_path(str(root), "cache folder")
    if root.is_file():
        raise UserError(f"{root} is a file. Give the folder of a feature cache.")
    if options.action == "list":
        print(_cache_list(root))
    else:
        print(f"Freed {format_size(clear_cache(root, 86400 * (options.older_than or 0)))} in {root}")


def _cache_list(root: Path) -> str:
    from hf_ft.feature_cache import cache_entries, format_size

    found = cache_entries(root)
    lines = [f"{'what':37} {'examples':>12} {'size':>11} {'last used':>16}"] if found else []
    for entry in reversed(found):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        first, *rest = textwrap.wrap(entry.what, 37, subsequent_indent="  ")
        lines += [f"{first:37} {entry.examples:12,} {format_size(entry.size):>11} {used}", *rest]
    total, unfinished = sum(entry.size for entry in found), sum(entry.unfinished for entry in found)
    begun = f", {format_size(unfinished)} of it unfinished" if unfinished else ""
    return "\n".join([*lines, f"{format_size(total)} in {root}{begun}"])


def env(argv: Sequence[str]) -> None:
    """Print what a bug report needs: versions, machine, devices."""
    _parser("env", env).parse_args(argv)
    from hf_ft.environment import machine, versions

    for name, value in {"hf-ft": __version__, **versions(), **machine()}.items():
        print(f"{name:14} {value}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "compare": compare,
    "depth": depth,
    "rank": rank,
    "models": models,
    "inspect": inspect,
    "methods": methods,
    "evaluate": evaluate,
    "predict": predict,
    "push": push,
    "cache": cache,
    "env": env,
}

if __name__ == "__main__":
    sys.exit(main())
