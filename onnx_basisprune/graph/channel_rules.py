"""How channels on the inputs and outputs of each op_type couple: one rule an op.

A rule reads the labels of its node's inputs from a `Tracer`, unites or blocks them, says which weight axes follow which
labels, and sets the outputs' labels. An op without a rule blocks what it reads: nothing is guessed to be elementwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_basisprune.graph.channel_rules_shape import SHAPE_RULES
from onnx_basisprune.graph.channel_tracer import Tracer
from onnx_basisprune.graph.channel_rules_linear import LINEAR_RULES
from onnx_basisprune.planning.channels import varying_axes
from onnx_basisprune.planning.types import Operation

Rule = Callable[[Operation, Tracer], None]
