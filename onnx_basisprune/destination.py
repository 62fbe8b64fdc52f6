"""Where a compression run may write: never over anything that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import OutputError, quote
from onnx_basisprune.files import check_writable
from onnx_basisprune.graph.model_io import name_data_file
from onnx_basisprune.leftovers import clear_leftovers
from onnx_basisprune.reporting.render_html import check_installed

# What is written besides the model: option → what it is.
_RESULTS = {"--report": "the report", "--html": "the page", "--save-plan": "the plan"}


def choose_output(config: CompressionConfig) -> Path | None:
    """Return where the compressed model goes, `None` in a dry run, after checking all places that are written to.

    Raises:
        MissingLibraryError: A page is wanted, and what makes it isn't installed.
        OutputError: The model, the report, its page or the plan is an input or exists without `force`, two results have
            the same place, or one lies in no folder.
    """
    if config.latency_table is not None and not config.latency_table.exists():
        check_writable(config.latency_table, force=False)
    if config.html is not None:
        check_installed()
    results = _list_results(config)
    for option, path in results.items():
        check_not_input(path, config, option)
        _check_not_table(path, config, option)
        check_writable(path, force=config.force)
    for first, second in combinations(results, 2):
        _check_apart(results[first], results[second], _RESULTS[first], second)
    if config.dry_run:
        return None
    output = config.output or config.model.with_name(f"{config.model.stem}.pruned.onnx")
    check_not_input(output, config, "-o")
    _check_not_table(output, config, "-o")
    for option, path in results.items():
        _check_apart(output, path, "the model", option)
    # What a killed run had moved aside must be back before anything is asked about it.
    clear_leftovers(output)
    check_writable(output, force=config.force)
    return output


def _list_results(config: CompressionConfig) -> dict[str, Path]:
    """Return what is written besides the model, by option."""
    paths = zip(_RESULTS, (config.report, config.html, config.save_plan), strict=True)
    return {option: path for option, path in paths if path is not None}


def _check_apart(first: Path, second: Path, what: str, option: str) -> None:
    """Refuse one place for two results."""
    if first.resolve() == second.resolve():
        raise OutputError(f"{quote(first)} can't be both {what} and {_RESULTS[option]}: choose another {option}.")


def _check_not_table(path: Path, config: CompressionConfig, option: str) -> None:
    """Refuse to write over a table that the run has yet to make."""
    if config.latency_table is not None and path.resolve() == config.latency_table.resolve():
        raise OutputError(f"{quote(path)} can't be the --latency-table, too: choose another {option}.")


def check_not_input(path: Path, config: CompressionConfig, option: str) -> None:
    """Refuse to write over what the run reads, whatever name it goes by.

    Raises:
        OutputError: `path` is the same file as the model, the images, the labels, the table of times or the plan.
    """
    inputs = {
        "model": config.model,
        "--data": config.data,
        "--val": config.val,
        "--labels": config.labels,
        "--latency-table": config.latency_table,
        "--plan": config.plan,
    }
    for what, source in inputs.items():
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise OutputError(
                f"{quote(path)} is the input {what}, which is never written over: choose another {option}."
            )


def check_data_files(output: Path | None, files: Sequence[Path], config: CompressionConfig) -> None:
    """Refuse to write over the files that hold the input's weights, or over what lies where the output's would go.

    Args:
        output: Where the compressed model goes, `None` in a dry run.
        files: The input model's files, its own first; the output's weights go to a second file where the input's do.
        config: `report`, `html`, `save_plan` and `force`.

    Raises:
        OutputError: Output, report, page, plan or the output's second file is one of the input's, or the last exists
            without `force` or is one of the others.
    """
    data = None if output is None else name_data_file(output)
    results = _list_results(config)
    for path, option in ((output, "-o"), (data, "-o"), *((path, option) for option, path in results.items())):
        if path is not None and path.exists() and any(path.samefile(file) for file in files[1:]):
            raise OutputError(
                f"{quote(path)} holds weights of the input model, which is never written over: choose another {option}."
            )
    if data is not None and len(files) > 1:
        for option, path in results.items():
            _check_apart(data, path, "weights", option)
        check_writable(data, force=config.force)
