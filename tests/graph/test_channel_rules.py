"""Removing channels equals gates of zero at their reads, through every pattern that moves channels.

Each case is a piece of a network between `h`, 8 channels of a Conv, and `z`, what a 1×1 Conv of 6 channels and a
classifier read; it states how many coupled channels are free (those 6 included) and why others aren't.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from onnx_basisprune.graph.dependency import map_channels
from onnx_basisprune.graph.normalize import normalize_model

STEM = "h = Conv <pads = [1, 1, 1, 1]> (x, W1, b1) "
HEAD = " c = Conv (z, W2) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm <transB = 1> (f, W3, b3)"
OWN = {"W1": (8, 3, 3, 3), "b1": (8,), "W2": (6, 8, 1, 1), "W3": (5, 6), "b3": (5,)}
OUTPUT = "it is an output of the model, y"


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


class Case(NamedTuple):
    nodes: str
    free: int
    constants: dict[str, Any] = {}  # noqa: RUF012 - never changed
    opset: int = 17
    blocked: tuple[str, ...] = ()


RESHAPED = {"to": ints(0, 2, 4, 8, 8), "back": ints(0, 8, 8, 8)}
HALVES = "z0 = Relu (s0) z1 = Sigmoid (s1) z = Concat <axis = 1> (z1, z0)"
CASES = {
    # Convolutions
    "depthwise": Case("z = Conv <group = 8, pads = [1, 1, 1, 1]> (h, D, d)", 14, {"D": (8, 1, 3, 3), "d": (8,)}),
    "depthwise multiplier": Case(
        "z = Conv <group = 8> (h, D, d)", 14, {"D": (16, 1, 3, 3), "d": (16,), "W2": (6, 16, 1, 1)}
    ),
    "depthwise on the image": Case("g = Conv <group = 3> (x, D) z = Concat <axis = 1> (g, h)", 8 + 4 + 6,
                                   {"D": (12, 1, 1, 1), "W2": (6, 20, 1, 1)}),
    "grouped": Case("z = Conv <group = 2> (h, D, d)", 4 + 5 + 6, {"D": (10, 4, 3, 3), "d": (10,), "W2": (6, 10, 1, 1)}),
    "grouped pair": Case(
        "g = Conv <group = 4> (h, D) r = Relu (g) z = Conv <group = 2> (r, E)",
        2 + 2 + 4 + 6,
        {"D": (8, 2, 3, 3), "E": (8, 4, 1, 1)},
    ),
    "transposed": Case("z = ConvTranspose <strides = [2, 2]> (h, D, d)", 8 + 7 + 6,
                       {"D": (8, 7, 2, 2), "d": (7,), "W2": (6, 7, 1, 1)}),
    "transposed, grouped": Case("z = ConvTranspose <group = 2> (h, D, d)", 4 + 3 + 6,
                                {"D": (8, 3, 2, 2), "d": (6,), "W2": (6, 6, 1, 1)}),
    "transposed, depthwise": Case("z = ConvTranspose <group = 8> (h, D, d)", 14,
                                  {"D": (8, 2, 2, 2), "d": (16,), "W2": (6, 16, 1, 1)}),
    # Per-channel constants
    "batch norm": Case("r = Relu (h) z = BatchNormalization (r, s, t, m, positive_v)", 14,
                       dict.fromkeys("stm", (8,)) | {"positive_v": (8,)}),
    "instance norm": Case("z = InstanceNormalization (h, s, t)", 14, dict.fromkeys("st", (8,))),
    "slope per channel": Case("z = PRelu (h, s)", 14, {"s": (8, 1, 1)}),
    "slope for all": Case("z = PRelu (h, s)", 14, {"s": (1,)}),
    "constants of all shapes": Case(
        "r = Relu (h) a = Mul (r, s4) b = Sub (s3, a) e = Div (b, s1) f0 = Add (e, s0) g = Max (f0, sw) "
        "z = Mul (sf, g)",
        14,
        {"s4": (1, 8, 1, 1), "s3": (8, 1, 1), "s1": (1, 1, 1), "s0": (), "sw": (8,), "sf": (1, 8, 8, 8)},
    ),
    "one channel for all": Case("r = Relu (h) z = Mul (r, s)", 14, {"s": (1, 1, 8, 8)}),
    "clip and where": Case("k = Greater (h, low) r = Clip (h, low, high) z = Where (k, r, s)", 14,
                           {"low": np.float32(-1), "high": np.float32(2), "s": (8, 1, 1)}),
    # Joins
    "residual": Case("a = Relu (h) b = Conv (a, D) r = Add (b, h) z = Relu (r)", 14, {"D": (8, 8, 1, 1)}),
    "squeeze and excite": Case(
        "g = GlobalAveragePool (h) a = Conv (g, D, d) r = Relu (a) b = Conv (r, E) s = Sigmoid (b) z = Mul (h, s)",
        8 + 4 + 6, {"D": (4, 8, 1, 1), "d": (4,), "E": (8, 4, 1, 1)},
    ),
    "added to itself": Case("z = Add (h, h)", 14),
    "joined with itself": Case("z = Concat <axis = 1> (h, h)", 14, {"W2": (6, 16, 1, 1)}),
    "joined twice, beside another": Case("a = Conv (h, D) r = Relu (a) z = Concat <axis = 1> (h, r, h)", 8 + 3 + 6,
                                         {"D": (3, 8, 1, 1), "W2": (6, 19, 1, 1)}),
    "joined in space": Case("a = Conv (h, D) z = Concat <axis = 2> (a, h)", 14, {"D": (8, 8, 1, 1)}),
    "joined with the image": Case("z = Concat <axis = 1> (x, h)", 14, {"W2": (6, 11, 1, 1)}),
    "added to the image": Case("a = Conv (h, D) z = Add (a, x)", 8 + 6, {"D": (3, 8, 1, 1), "W2": (6, 3, 1, 1)},
                               blocked=("Add z: it combines channels with a tensor that isn't pruned",)),
    # Parts
    "split": Case("s0, s1 = Split <axis = 1> (h) " + HALVES, 14),
    "split, opset 18": Case("s0, s1 = Split <axis = 1, num_outputs = 2> (h) " + HALVES, 14, opset=18),
    "split, opset 11": Case("s0, s1 = Split <axis = 1> (h) " + HALVES, 14, opset=11),
    "split unequally, opset 11": Case("s0, s1 = Split <axis = 1, split = [3, 5]> (h) " + HALVES, 14, opset=11),
    "split unequally": Case("s0, s1 = Split <axis = 1> (h, parts) " + HALVES, 14, {"parts": ints(2, 6)}),
    "split and multiplied": Case("s0, s1 = Split <axis = 1> (h) a = Sigmoid (s0) z = Mul (a, s1)", 4 + 6,
                                 {"W2": (6, 4, 1, 1)}),
    "split in space": Case("s0, s1 = Split <axis = 3> (h) z = Add (s0, s1)", 14),
    "slice in space": Case("z = Slice (h, start, end, axes, steps)", 14,
                           {"start": ints(0, 1), "end": ints(8, 9), "axes": ints(2, 3), "steps": ints(2, 2)}),
    "slice of channels": Case(
        "a = Slice (h, start, end, axes) b = Slice (h, end, last, axes) s0 = Relu (a) z = Concat <axis = 1> (b, s0)",
        14, {"start": ints(0), "end": ints(3), "last": ints(2**62), "axes": ints(1)},
    ),
    "slice of channels from the end": Case("z = Slice (h, start, end, axes)", 14, {
        "start": ints(-6), "end": ints(-1), "axes": ints(-3), "W2": (6, 5, 1, 1)}, opset=13),
    "slice of channels, opset 9": Case("z = Slice <axes = [1, 2], starts = [2, 1], ends = [7, 8]> (h)", 14,
                                       {"W2": (6, 5, 1, 1)}, opset=9),
    "every other channel": Case(
        "a = Slice (h, i0, end, i1, i2) b = Slice (h, i1, end, i1, i2) s0 = Sigmoid (b) z = Concat <axis = 1> (s0, a)",
        14, {"i0": ints(0), "i1": ints(1), "i2": ints(2), "end": ints(2**62)}),
    "every other channel, paired": Case(
        "a = Slice (h, i0, end, i1, i2) b = Slice (h, i1, end, i1, i2) s0 = Sigmoid (b) z = Mul (s0, a)",
        4 + 6, {"i0": ints(0), "i1": ints(1), "i2": ints(2), "end": ints(8), "W2": (6, 4, 1, 1)}),
    "channels backwards": Case("z = Slice (h, start, end, axes, steps)", 14, {
        "start": ints(-1), "end": ints(-(2**62)), "axes": ints(1), "steps": ints(-1)}),
    "every other channel and row": Case("z = Slice (h, start, end, axes, steps)", 6, {
        "start": ints(0, 0), "end": ints(8, 8), "axes": ints(1, 2), "steps": ints(2, 2), "W2": (6, 4, 1, 1)},
        blocked=("Slice z: it takes every so many channels, and slices other axes too",)),
    "overlapping slices": Case("a = Slice (h, i0, i5, i1) b = Slice (h, i3, i8, i1) r = Relu (b) z = Mul (a, r)", 9, {
        "i0": ints(0), "i1": ints(1), "i3": ints(3), "i5": ints(5), "i8": ints(8), "W2": (6, 5, 1, 1)}),
    "rolled": Case("a = Slice (h, i0, i3, i1) b = Slice (h, i3, i8, i1) z = Concat <axis = 1> (b, a)", 14, {
        "i0": ints(0), "i1": ints(1), "i3": ints(3), "i8": ints(8)}),
    "pad in space": Case("z = Pad <mode = \"reflect\"> (h, pads)", 14, {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "option A": Case(
        "s = Slice (h, start, end, axes, steps) q = Pad (s, pads) a = Conv <strides = [2, 2]> (h, D) r = Add (a, q) "
        "z = Relu (r)", 12 + 6,
        {"start": ints(0, 0), "end": ints(8, 8), "axes": ints(2, 3), "steps": ints(2, 2), "D": (12, 8, 1, 1),
         "pads": ints(0, 2, 0, 0, 0, 2, 0, 0), "W2": (6, 12, 1, 1)},
    ),
    "option A, opset 10": Case("q = Pad <pads = [0, 2, 0, 0, 0, 2, 0, 0]> (h) a = Conv (h, D) z = Add (a, q)", 18,
                               {"D": (12, 8, 1, 1), "W2": (6, 12, 1, 1)}, opset=10),
    "zeros of a computed shape": Case(
        "s = Shape (h) n = Gather (s, i0) n1 = Unsqueeze (n, i0v) to = Concat <axis = 0> (n1, rest) "
        "o = ConstantOfShape (to) z = Concat <axis = 1> (o, h, o)", 8 + 2 + 2 + 6,
        {"i0": np.int64(0), "i0v": ints(0), "rest": ints(2, 8, 8), "W2": (6, 12, 1, 1)}),
    "zeros like some channels": Case(
        "a = Slice (h, i0, i3, i1) s = Shape (a) o = Expand (zero, s) q = Concat <axis = -3> (h, o) "
        "b = Conv (h, D) z = Add (b, q)", 8 + 3 + 6,
        {"i0": ints(0), "i1": ints(1), "i3": ints(3), "zero": np.float32(0), "D": (11, 8, 1, 1), "W2": (6, 11, 1, 1)}),
    "channels padded by a value, opset 18": Case("z = Pad (h, pads, fill, axes)", 8 + 4 + 6, {
        "pads": ints(1, 3), "fill": np.float32(2), "axes": ints(-3), "W2": (6, 12, 1, 1)}, opset=18),
    "channels taken away by a pad": Case("z = Pad (h, pads)", 14, {"pads": ints(0, -2, 0, 0, 0, 0, 0, 0),
        "W2": (6, 6, 1, 1)}),
    "channels taken away and padded": Case("z = Pad (h, pads)", 8 + 3 + 6, {"pads": ints(0, 3, 0, 0, 0, -4, 0, 0),
        "W2": (6, 7, 1, 1)}),
    "channels padded by channels": Case("z = Pad <mode = \"reflect\"> (h, pads)", 6, {
        "pads": ints(0, 2, 0, 0, 0, 0, 0, 0), "W2": (6, 10, 1, 1)},
        blocked=("Pad z: it pads channels with other channels",)),
    # Space
    "pools": Case("a = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h) "
                  "z = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a)", 14),
    "mean over space": Case("m = ReduceMean <axes = [2, 3]> (h) z = Relu (m)", 14),
    "mean over space, dropped": Case("m = ReduceMean <axes = [-2, -1], keepdims = 0> (h) z = Unsqueeze (m, axes)", 14,
                                     {"axes": ints(2, 3)}),
    "mean over space, opset 18": Case("z = ReduceMean (h, axes)", 14, {"axes": ints(2, 3)}, opset=18),
    "resize by scales": Case("z = Resize <mode = \"linear\"> (h, , scales)", 14,
                             {"scales": np.float32([1, 1, 2, 0.5])}),
    "resize of some axes to those of another": Case(
        "s = Shape <start = 2> (x) r = Relu (h) z = Resize <mode = \"nearest\", axes = [2, 3]> (r, , , s)", 14,
        opset=18),
    "resize of channels to as many as there are": Case(
        "s = Shape <start = 1, end = 2> (h) z = Resize <mode = \"nearest\", axes = [1]> (h, , , s)", 14, opset=18),
    "resize of some axes": Case("z = Resize <mode = \"nearest\", axes = [1, -1]> (h, , , s)", 14, {"s": ints(8, 16)},
                                opset=18),
    "resize to sizes": Case("n = Shape <start = 0, end = 1> (h) s = Concat <axis = 0> (n, rest) "
                            "z = Resize <mode = \"nearest\"> (h, , , s)", 14, {"rest": ints(8, 4, 16)}),
    "upsample": Case("z = Upsample <mode = \"nearest\"> (h, scales)", 14, {"scales": np.float32([1, 1, 2, 2])},
                     opset=9),
    "depth to space": Case("z = DepthToSpace <blocksize = 2> (h)", 2 + 6, {"W2": (6, 2, 1, 1)}),
    "depth to space, CRD": Case("z = DepthToSpace <blocksize = 2, mode = \"CRD\"> (h)", 2 + 6, {"W2": (6, 2, 1, 1)}),
    "space to depth": Case("z = SpaceToDepth <blocksize = 2> (h)", 14, {"W2": (6, 32, 1, 1)}),
    "tile in space": Case("z = Tile (h, times)", 14, {"times": ints(1, 1, 2, 1)}),
    "tile of channels": Case("z = Tile (h, times)", 14, {"times": ints(1, 3, 1, 2), "W2": (6, 24, 1, 1)}),
    # Layout
    "shuffle": Case("a = Reshape (h, to) b = Transpose <perm = [0, 2, 1, 3, 4]> (a) z = Reshape (b, back)", 4 + 6,
                    RESHAPED),
    "shuffle by sizes in the graph": Case(
        "s = Shape (h) n = Gather (s, i0) c0 = Gather (s, i1) w0 = Gather (s, i2) g = Div (c0, two) "
        "n1 = Unsqueeze (n, i0v) g1 = Unsqueeze (g, i0v) w1 = Unsqueeze (w0, i0v) c1 = Unsqueeze (c0, i0v) "
        "t1 = Concat <axis = 0> (n1, twov, g1, w1, w1) "
        "t2 = Concat <axis = 0> (n1, c1, w1, w1) a = Reshape (h, t1) b = Transpose <perm = [0, 2, 1, 3, 4]> (a) "
        "z = Reshape (b, t2)", 4 + 6,
        {"i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2), "two": np.int64(2), "twov": ints(2), "i0v": ints(0)},
    ),
    "half by sizes in the graph": Case(
        "s = Shape (h) c0 = Gather (s, i1) e = Div (c0, two) z = Slice (h, zero, e, i1)", 14,
        {"i1": ints(1), "two": ints(2), "zero": ints(0), "W2": (6, 4, 1, 1)},
    ),
    # Sizes of others
    "a target that two groups share": Case(
        "s = Shape (x) n = Slice (s, i0, i1) to = Concat <axis = 0> (n, rest) a = Conv (h, D) b = Relu (a) "
        "u = Reshape (b, to) v = Reshape (h, to) u2 = Relu (u) v2 = Sigmoid (v) u4 = Reshape (u2, back) "
        "v4 = Reshape (v2, back) z = Concat <axis = 1> (u4, v4)", 8 + 8 + 6,
        {"i0": ints(0), "i1": ints(1), "rest": ints(8, 64), "back": ints(0, 8, 8, 8), "D": (8, 8, 1, 1),
         "W2": (6, 16, 1, 1)}),
    "a target that is a number, too": Case(
        "s = Shape (x) n = Slice (s, i0, i1) to = Concat <axis = 0> (n, rest) u = Reshape (h, to) "
        "k = ReduceProd <keepdims = 0> (to) t = Cast <to = 1> (k) v = Div (u, t) w = Mul (v, much) r = Relu (w) "
        "z = Reshape (r, back)", 14,
        {"i0": ints(0), "i1": ints(1), "rest": ints(8, 64), "back": ints(0, 8, 8, 8), "much": np.float32(1000)}),
    "a target that passes a node, shared": Case(
        "s = Shape (x) n = Slice (s, i0, i1) t = Concat <axis = 0> (n, rest) to = Cast <to = 7> (t) "
        "a = Conv (h, D) u = Reshape (a, to) v = Reshape (h, to) w = Concat <axis = 1> (u, v) z = Relu (w)", 8 + 8 + 6,
        {"i0": ints(0), "i1": ints(1), "rest": ints(8, 8, 8), "D": (8, 8, 1, 1), "W2": (6, 16, 1, 1)}),
    "the shape of other channels": Case(
        "a = Conv (h, D) r = Relu (a) e = Reshape (r, flat) g = Relu (e) s = Shape (h) u = Reshape (g, s) "
        "z = Concat <axis = 1> (u, h)", 8 + 6, {"flat": ints(0, 8, 64), "D": (8, 8, 1, 1), "W2": (6, 16, 1, 1)}),
    "a mask as wide as channels": Case(
        "m = Conv (x, D) g = Sigmoid (m) s = Shape (h) e = Expand (g, s) z = Mul (h, e)", 14, {"D": (1, 3, 1, 1)}),
    "expanded to fewer axes": Case("g = Conv (h, D) to = Identity (rest) r = Relu (h) e = Expand (r, to) "
                                   "z = Mul (e, g)", 14, {"D": (1, 8, 1, 1), "rest": ints(8, 8, 8)}),
    "zeros as many as channels": Case(
        "s = Shape (h) o = ConstantOfShape (s) k = Greater (h, o) z = Where (k, h, o)", 14),
    "their number as a value": Case(
        "n = Size (h) t = Cast <to = 1> (n) q = Div (h, t) m = Mul (q, much) z = Relu (m)", 6,
        {"much": np.float32(1000)}, blocked=("Cast t uses their number as a value",)),
    "squeezed without axes": Case("g = GlobalAveragePool (h) q = ReduceMax <axes = [0]> (g) s = Squeeze (q) "
                                  "u = Reshape (s, to) z = Mul (h, u)", 14, {"to": ints(1, 8, 1, 1)}),
    "layouts": Case("a = Transpose <perm = [0, 2, 3, 1]> (h) b = Mul (a, s) "
                    "z = Transpose <perm = [0, 3, 1, 2]> (b)", 14, {"s": (8,)}),
    "softmax over space": Case("a = Reshape (h, to) b = Softmax <axis = 2> (a) z = Reshape (b, back)", 14,
                               {"to": ints(0, 8, 64), "back": ints(0, 8, 8, 8)}),
    "expand": Case("g = GlobalAveragePool (h) e = Expand (g, to) z = Mul (e, h)", 14, {"to": ints(1, 8, 8, 8)}),
    "expand, where -1 keeps a size": Case(
        "g = GlobalAveragePool (h) s = Shape (x) n = Slice (s, i0, i1) to = Concat <axis = 0> (n, rest) "
        "v = Reshape (to, minus) k = Equal (v, kept) w = Where (k, ones, v) e = Expand (g, w) z = Mul (e, h)", 14,
        {"i0": ints(0), "i1": ints(1), "rest": ints(8, 8, 8), "minus": ints(-1), "kept": ints(-1, -1, -1, -1),
         "ones": ints(1, 1, 1, 1)}),
    "gather in space": Case("a = Gather <axis = 2> (h, index) z = Unsqueeze (a, axes)", 14,
                            {"index": np.int64(3), "axes": ints(2)}),
    "shuffled by positions": Case("a = Gather <axis = -3> (h, index) z = Conv <group = 2> (a, D)", 4 + 3 + 6, {
        "index": ints(0, 4, 1, 5, 2, 6, 3, -1), "D": (6, 4, 1, 1), "W2": (6, 6, 1, 1)}),
    "some channels, some twice": Case("a = Gather <axis = 1> (h, index) r = Relu (a) z = Concat <axis = 1> (r, h)", 14,
                                      {"index": np.int32([6, 1, 1, -3]), "W2": (6, 12, 1, 1)}),
    "channels picked into rows": Case("a = Gather <axis = 1> (h, index) z = Reshape (a, to)", 5 + 6, {
        "index": ints(7, 2, 4, 1, 0, 3).reshape(2, 3), "to": ints(0, 6, 8, 8), "W2": (6, 6, 1, 1)}),
    "a single channel": Case("a = Gather <axis = 1> (h, index) b = Unsqueeze (a, i1) z = Mul (h, b)", 7 + 6, {
        "index": np.int64(5), "i1": ints(1)}, blocked=("all channels of a tensor would go at once",)),
    "channels picked by computed positions": Case(
        "s = Shape (x) n = Slice (s, i0, i1) z = Gather <axis = 1> (h, n)", 6,
        {"i0": ints(0), "i1": ints(1), "W2": (6, 1, 1, 1)},
        blocked=("Gather z: which channels it picks is computed in the graph",)),
    # Sums of products
    "einsum as a convolution": Case("a = Einsum <equation = \"bchw,oc->bohw\"> (h, E) z = Relu (a)", 8 + 7 + 6,
                                    {"E": (7, 8), "W2": (6, 7, 1, 1)}),
    "einsum, channels last": Case(
        "a = Transpose <perm = [0, 2, 3, 1]> (h) z = Einsum <equation = \"b h w c, c o -> b o h w\"> (a, E)",
        8 + 7 + 6, {"E": (8, 7), "W2": (6, 7, 1, 1)}),
    "einsum by a weight per channel": Case("z = Einsum <equation = \"bchw,cw->bchw\"> (h, E)", 14, {"E": (8, 8)}),
    "einsum into heads": Case(
        "a = Einsum <equation = \"bchw,cnd->bndhw\"> (h, E) r = Relu (a) "
        "z = Einsum <equation = \"bndhw,ond->bohw\"> (r, F)",
        8 + 5 + 4 + 6, {"E": (8, 2, 5), "F": (4, 2, 5), "W2": (6, 4, 1, 1)}),
    "einsum of activations": Case(
        "a = Conv (h, D) b = Conv (h, F) k = Einsum <equation = \"bchw,bcvw->bhv\"> (a, b) s = Softmax (k) "
        "z = Einsum <equation = \"bhv,bcvw->bchw\"> (s, h)", 8 + 5 + 6, {"D": (5, 8, 1, 1), "F": (5, 8, 1, 1)}),
    "einsum of products per channel": Case(
        "a = Relu (h) b = Einsum <equation = \"bchw,bchw->bch\"> (a, h) z = Unsqueeze (b, i3)", 14, {"i3": ints(3)}),
    "einsum over channels": Case("a = Einsum <equation = \"bchw->bhw\"> (h) b = Unsqueeze (a, i1) z = Mul (b, h)", 14,
                                 {"i1": ints(1)}),
    "einsum with the image": Case("a = Conv (h, D) z = Einsum <equation = \"bchw,bchw->bchw\"> (a, x)", 8 + 6,
                                  {"D": (3, 8, 1, 1), "W2": (6, 3, 1, 1)},
                                  blocked=("Einsum z: it multiplies channels with a tensor that isn't pruned",)),
    "einsum of two axes": Case(
        "a = Transpose <perm = [0, 2, 1, 3]> (h) z = Einsum <equation = \"bchw,bcgw->bcgh\"> (h, a)", 6,
        blocked=("Einsum z: its inputs have their channels on different axes",)),
    "einsum with an ellipsis": Case("z = Einsum <equation = \"...w->...w\"> (h)", 6,
                                    blocked=("Einsum z: its equation has implied or repeated indices",)),
    "cast": Case("a = Cast <to = 11> (h) z = Cast <to = 1> (a)", 14),
    # What blocks
    "layer norm over space": Case("z = LayerNormalization <axis = 2> (h, s)", 14, {"s": (8, 1, 1)}),
    "layer norm": Case("a = Transpose <perm = [0, 2, 3, 1]> (h) b = LayerNormalization (a, s) "
                       "z = Transpose <perm = [0, 3, 1, 2]> (b)", 6, {"s": (8,)},
                       blocked=("LayerNormalization b: it works across the pruned axis",)),
    "group norm": Case("z = GroupNormalization <num_groups = 2> (h, s, s)", 6, {"s": (8,)}, opset=21,
                       blocked=("GroupNormalization z: it works across the pruned axis",)),
    "group norm by reshapes": Case("a = Reshape (h, to) b = InstanceNormalization (a, s, t) z = Reshape (b, back)", 6,
                                   {"to": ints(0, 2, -1), "back": ints(0, 8, 8, 8), "s": (2,), "t": (2,)},
                                   blocked=("InstanceNormalization b: it normalises along the pruned axis",)),
    "mean over channels": Case("a = ReduceMean <axes = [1]> (h) z = Add (a, h)", 6,
                               blocked=("ReduceMean a: it reduces over the pruned axis",)),
    "softmax over channels": Case("z = Softmax <axis = 1> (h)", 6, blocked=(
        "Softmax z: it works across the pruned axis",)),
    "softmax from channels on, opset 11": Case("z = Softmax <axis = 1> (h)", 6, opset=11, blocked=(
        "Softmax z: it works across the pruned axis",)),
    "neighbouring channels": Case("z = LRN <size = 3> (h)", 6, blocked=("LRN z: it works across the pruned axis",)),
    "cumulated": Case("z = CumSum (h, axis)", 6, {"axis": np.int64(1)}, blocked=(
        "CumSum z: its channels aren't followed",)),
    "computed bias": Case(
        "g = ReduceMean <axes = [0, 2, 3], keepdims = 0> (h) z = Conv (h, D, g)", 6, {"D": (8, 8, 1, 1)},
        blocked=("Conv z: it takes pruned channels for its parameters",)),
    "computed scale of a layer norm": Case(
        "g = ReduceMean <axes = [0, 2, 3], keepdims = 0> (h) z = LayerNormalization <axis = 3> (h, g)", 6,
        blocked=("LayerNormalization z: it takes pruned channels for its parameters",)),
    "computed scale of an instance norm": Case(
        "g = ReduceMean <axes = [0, 2, 3], keepdims = 0> (h) z = InstanceNormalization (h, g, t)", 6, {"t": (8,)},
        blocked=("InstanceNormalization z: it takes pruned channels for its parameters",)),
    "indices of a pool": Case(
        "m, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h) t = Cast <to = 1> (i) k = Mul (t, small) "
        "z = Add (m, k)", 6, {"small": np.float32(0.01)},
        blocked=("MaxPool m: its second output tells positions among all channels",)),
    "an empty part": Case("s0, s1 = Split <axis = 1> (h, parts) z = Concat <axis = 1> (s1, s0)", 6,
                          {"parts": ints(8, 0)}, blocked=("Split s0: it makes a tensor without elements",)),
    "computed weight": Case("a = Relu (D) z = Conv (h, a)", 6, {"D": (8, 8, 1, 1)},
                            blocked=("Conv z: its weight isn't constant",)),
}  # fmt: skip


def build_case(build: Any, case: Case) -> Any:
    model = build(STEM + case.nodes + HEAD, opset=case.opset, **{**OWN, **case.constants})
    for node in model.graph.node:
        node.name = node.output[0]
    return normalize_model(model)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_removal_through_pattern(build: Any, check_removal: Any, case: Case) -> None:
    model = build_case(build, case)

    @seed(0)
    @settings(max_examples=4, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1))
    def check(choice: int) -> None:
        check_removal(model, choice)

    check()
    channel_map = map_channels(model)
    free = [group for group in channel_map.groups if not group.blocked_by]
    assert sum(len(group.channels) for group in free) == case.free
    reasons = {group.blocked_by for group in channel_map.groups if group.blocked_by}
    assert reasons == {*case.blocked, OUTPUT}


def test_constants_that_are_joined_lose_channels_too(build: Any, check_removal: Any) -> None:
    nodes = STEM + "z = Concat <axis = 1> (k, h)" + HEAD
    constants = OWN | {"W2": (6, 12, 1, 1), "k": (1, 4, 8, 8)}
    model = build(nodes, x="1, 3, 8, 8", **constants)
    for node in model.graph.node:
        node.name = node.output[0]
    for choice in range(3):
        channel_map = check_removal(normalize_model(model), choice, batches=[1])
    assert {g.name: len(g.channels) for g in channel_map.groups if not g.blocked_by} == {"h": 8, "z": 4, "c": 6}


def test_many_positions_are_renumbered(build: Any, check_removal: Any) -> None:
    order = np.random.default_rng(0).permutation(8 * 1024)
    nodes = STEM + "r = Relu (h) f = Flatten (r) q = Gather <axis = 1> (f, order) y = Gemm <transB = 1> (q, W3, b3)"
    model = build(nodes, x="N, 3, 32, 32", **OWN | {"W3": (5, 8192), "order": order})
    for node in model.graph.node:
        node.name = node.output[0]
    channel_map = check_removal(normalize_model(model), 0, shape=(3, 32, 32))
    assert {g.name: len(g.channels) for g in channel_map.groups if not g.blocked_by} == {"h": 8}


def test_parts_whose_sizes_a_caller_may_override_stay(build: Any) -> None:
    nodes = STEM + "s0, s1 = Split <axis = 1> (h, parts) z = Concat <axis = 1> (s1, s0)" + HEAD
    model = build(nodes, **OWN, parts=ints(3, 5))
    model.graph.input.append(onnx.helper.make_tensor_value_info("parts", onnx.TensorProto.INT64, [2]))
    (h, *_) = map_channels(normalize_model(model)).groups
    assert h.blocked_by.endswith("how it does so is computed in the graph")
