"""The options of `basisprune compress`, in the order in which its help lists them."""

from __future__ import annotations

import click

from onnx_basisprune.cli.gate_options import size_and_accuracy_gate_options, speedup_gate_options, verdict_options
from onnx_basisprune.cli.options import (
    FILE,
    feed_option,
    labels_option,
    preprocess_options,
    provider_option,
    scores_option,
    verbosity_options,
)
from onnx_basisprune.cli.parameter_types import Alignment, Count, TimeSpan
from onnx_basisprune.cli.sections import apply_options, option
from onnx_basisprune.config import DEFAULT_MAX_DROP, CompressionConfig

# One of these on the command line puts the others out of force that a file sets.
_TARGETS = ("target_macs", "target_params", "target_latency", "plan")
_BUDGETS = (*_TARGETS, "max_drop", "minimize", "time_limit")
_DATA = "Images"
_TARGET = "How small"
_METHOD = "How it is done"
_CLOCK = "What it is timed on"
_OUTPUT = "Output"

_data_options = apply_options(
    option(
        "--data",
        section=_DATA,
        type=FILE,
        required=True,
        metavar="DIR|FILE.npz",
        help="Images to calibrate on: a folder of class folders, a flat folder (no labels), or an .npz with x "
        "and optional y.",
    ),
    option(
        "--val",
        section=_DATA,
        type=FILE,
        metavar="DIR|FILE.npz",
        help="Images for the reported accuracy.  [default: a fifth of --data, which is then not calibrated on]",
    ),
    labels_option(_DATA),
    scores_option(_DATA),
    feed_option(_DATA),
    option(
        "--limit",
        section=_DATA,
        type=Count(1),
        default=CompressionConfig.limit,
        metavar="N",
        help="Calibrate on at most N images of --data, drawn at random, evenly over the classes.",
    ),
)
_target_options = apply_options(
    option(
        "--max-drop",
        section=_TARGET,
        overrides=_TARGETS,
        type=float,
        metavar="PP",
        help="Search the smallest model that loses at most PP percentage points of accuracy (without labels, of "
        f"agreement); with a target or --plan, only a gate.  [default: {DEFAULT_MAX_DROP:g} where neither is given]",
    ),
    option(
        "--minimize",
        section=_TARGET,
        overrides=_TARGETS,
        type=click.Choice(["latency", "macs", "params"]),
        default=CompressionConfig.minimize,
        help="What the search for --max-drop makes small.",
    ),
    option(
        "--time-limit",
        section=_TARGET,
        overrides=_TARGETS,
        type=TimeSpan(),
        metavar="TIME",
        help="The search (or --frontier) begins nothing that would take longer, such as 20m, and ends with the best "
        "model so far; its last recovery may take fewer steps.",
    ),
    option(
        "--plan",
        section=_TARGET,
        overrides=(*_BUDGETS, "save_plan"),
        type=FILE,
        metavar="FILE.json",
        help="Keep as much of each layer as this plan says, which --save-plan wrote for an earlier version of the same "
        "network; nothing is searched, components and channels are chosen anew.",
    ),
    *(
        option(
            f"--target-{unit}",
            section=_TARGET,
            overrides=overrides,
            type=float,
            metavar="R",
            help=f"Fraction of {what} to keep.",
        )
        for unit, overrides, what in (
            ("macs", _BUDGETS, "the multiply-adds"),
            ("params", _BUDGETS, "the parameters"),
            ("latency", (*_BUDGETS, "allow_slower"), "onnxruntime's time on this machine (held to the clock)"),
        )
    ),
    option(
        "--align",
        section=_TARGET,
        type=Alignment(),
        default="auto",
        metavar="auto|N",
        help="Ranks and kept channels are multiples of N; auto is what onnxruntime's kernels want on this machine.",
    ),
    option(
        "--allow-slower",
        section=_TARGET,
        is_flag=True,
        help="Look at MACs or parameters only: smaller, but perhaps no faster.",
    ),
    option(
        "--exclude",
        section=_TARGET,
        multiple=True,
        metavar="NODE",
        help="Leave this node as it is; can be repeated. `basisprune inspect` lists the names.",
    ),
)
_method_options = apply_options(
    option(
        "--basis",
        section=_METHOD,
        type=click.Choice(["fisher", "svd"]),
        default=CompressionConfig.basis,
        help="fisher looks at what the images do to the outputs, svd at the weights only.",
    ),
    option(
        "--prune",
        section=_METHOD,
        type=click.Choice(["basis", "channels", "double"]),
        default=CompressionConfig.prune,
        help="What is removed: basis channels, coupled output channels, or both (double).",
    ),
    option(
        "--rounds",
        section=_METHOD,
        type=Count(1),
        default=CompressionConfig.rounds,
        metavar="N",
        help="Statistics are taken anew N times on the way to the budget; for deep cuts.",
    ),
    option(
        "--recover",
        section=_METHOD,
        type=click.Choice(["none", "scale", "full"]),
        default=CompressionConfig.recover,
        help="What is tuned afterwards so that the outputs are the original's again (no labels needed): scaling "
        "factors, biases and the final classifier (scale), all weights (full), or nothing.",
    ),
    option(
        "--recover-steps",
        section=_METHOD,
        type=Count(0),
        default=CompressionConfig.recover_steps,
        metavar="N",
        help="Steps of the recovery.",
    ),
    option(
        "--augment",
        section=_METHOD,
        type=click.Choice(["none", "shift", "shift+flip"]),
        default=CompressionConfig.augment,
        help="How images are varied in the recovery; flip only where a mirrored image keeps its class.",
    ),
    option(
        "--batch-size",
        section=_METHOD,
        type=Count(1),
        default=CompressionConfig.batch_size,
        metavar="N",
        help="Images per batch; fewer take less memory.",
    ),
    option(
        "--frontier",
        section=_TARGET,
        is_flag=True,
        help="Measure other sizes, too, and show the trade-off: a table, and plots on the --html page.",
    ),
    option(
        "--cache/--no-cache",
        section=_METHOD,
        default=CompressionConfig.cache,
        help="Go on from what earlier runs with the same model, images and options have found out, and keep what this "
        "one does, in the user's cache folder.",
    ),
    option(
        "--seed",
        section=_METHOD,
        type=Count(0),
        default=CompressionConfig.seed,
        metavar="N",
        show_default=True,
        help="Seeds every random choice.",
    ),
)
_clock_options = apply_options(
    option(
        "--threads",
        section=_CLOCK,
        type=Count(1),
        metavar="N",
        help="onnxruntime's threads for every latency.  [default: onnxruntime's own choice]",
    ),
    provider_option(_CLOCK),
    option(
        "--benchmark-batch-size",
        section=_CLOCK,
        type=Count(1),
        metavar="N",
        help="Images in a run for every latency.  [default: the model's own, or 1]",
    ),
    option(
        "--latency-table",
        section=_CLOCK,
        type=FILE,
        metavar="FILE.json",
        help="Plan with the times in this file, so that every run makes the same plan; it is made where it doesn't "
        "exist.  [default: a table in the user's cache folder, which grows]",
    ),
)
_output_options = apply_options(
    option(
        "-o",
        "--output",
        section=_OUTPUT,
        type=FILE,
        metavar="FILE",
        help="Where the compressed model goes.  [default: MODEL with .pruned.onnx for .onnx]",
    ),
    option("--report", section=_OUTPUT, type=FILE, metavar="FILE.json", help="Write all figures as JSON."),
    option("--html", section=_OUTPUT, type=FILE, metavar="FILE.html", help="Write them as a page to look at, too."),
    option(
        "--save-plan",
        section=_OUTPUT,
        type=FILE,
        metavar="FILE.json",
        help="Write what is kept of each layer, to be reviewed, edited, and applied by --plan.",
    ),
    option("--dry-run", section=_OUTPUT, is_flag=True, help="Plan and predict only; write no model."),
    option("--force", section=_OUTPUT, is_flag=True, help="Replace an existing output, report, plan or JUnit file."),
    verbosity_options(),
)

compression_options = apply_options(
    _data_options,
    _target_options,
    _method_options,
    _clock_options,
    preprocess_options(),
    speedup_gate_options(),
    size_and_accuracy_gate_options(),
    verdict_options(),
    _output_options,
)
