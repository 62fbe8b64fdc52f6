"""The table of ONNX operators that can be run in PyTorch: op_type → plain function on tensors.

To support an operator is to add one entry to the dict of its family: a function that takes the node's inputs
positionally (`None` for an omitted one) and its attributes as keyword arguments by their ONNX names with
ONNX's defaults. A keyword-only parameter `opset` receives the version of the operator set, `output_count` the
number of outputs that the node names; a function with several outputs returns a tuple. Only ONNX's own
domain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx_basisprune.calibration.torch_ops_attention import ATTENTION_OPS
from onnx_basisprune.calibration.torch_ops_conv import CONV_OPS
from onnx_basisprune.calibration.torch_ops_index import INDEX_OPS
from onnx_basisprune.calibration.torch_ops_math import MATH_OPS
from onnx_basisprune.calibration.torch_ops_norm import NORM_OPS
from onnx_basisprune.calibration.torch_ops_pool import POOL_OPS
from onnx_basisprune.calibration.torch_ops_recurrent import RECURRENT_OPS
from onnx_basisprune.calibration.torch_ops_reduce import REDUCE_OPS
from onnx_basisprune.calibration.torch_ops_resize import RESIZE_OPS
from onnx_basisprune.calibration.torch_ops_shape import SHAPE_OPS

TORCH_OPS: dict[str, Callable[..., Any]] = {
    **ATTENTION_OPS,
    **CONV_OPS,
    **INDEX_OPS,
    **MATH_OPS,
    **NORM_OPS,
    **POOL_OPS,
    **RECURRENT_OPS,
    **REDUCE_OPS,
    **RESIZE_OPS,
    **SHAPE_OPS,
}
