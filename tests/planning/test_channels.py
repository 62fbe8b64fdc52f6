from __future__ import annotations

import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from onnx_basisprune.planning.channels import FIXED, ChannelClasses, fixed_labels, read_axis, varying_axes


def test_new_labels_differ_from_all_others_and_from_the_fixed_one() -> None:
    classes = ChannelClasses()
    first, second = classes.make(3), classes.make(2)
    assert len({FIXED, *first.tolist(), *second.tolist()}) == len(classes) == 6


@seed(0)
@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20))
def test_find_gives_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    classes = ChannelClasses()
    labels = classes.make(12)
    components = {int(label): {int(label)} for label in labels}
    for one, other in pairs:
        classes.unite(np.array([one]), np.array([other]), "never told")
        merged = components[one] | components[other]
        components.update(dict.fromkeys(merged, merged))
    roots = classes.find(labels)
    for index, label in enumerate(labels.tolist()):
        assert set(labels[roots == roots[index]].tolist()) == components[label]


def test_find_keeps_the_shape() -> None:
    classes = ChannelClasses()
    labels = classes.make(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(classes.find(labels), labels)


def test_what_meets_the_fixed_label_stays_apart_and_is_blocked_for_the_first_reason() -> None:
    classes = ChannelClasses()
    labels = classes.make(3)
    classes.unite(labels, np.array([labels[0], FIXED, labels[2]]), "a reason")
    classes.unite(labels[1:2], np.array([FIXED]), "another reason")
    roots = classes.find(labels).tolist()
    assert [classes.reason(root) for root in roots] == ["", "a reason", ""]
    assert len(set(roots)) == 3


def test_a_reason_holds_for_all_that_is_united_before_and_after() -> None:
    classes = ChannelClasses()
    labels = classes.make(4)
    classes.unite(labels[0], labels[1], "")
    classes.block(labels[1:2], "a reason")
    classes.unite(labels[2], labels[0], "")
    assert [classes.reason(int(root)) for root in classes.find(labels)] == ["a reason"] * 3 + [""]


def test_blocking_the_fixed_label_does_nothing() -> None:
    classes = ChannelClasses()
    classes.block(fixed_labels(2), "a reason")
    assert classes.reason(FIXED) == ""


def test_simplify_drops_axes_on_which_labels_do_not_vary() -> None:
    classes = ChannelClasses()
    labels = classes.make(4)
    spread = np.broadcast_to(labels[None, :, None], (2, 4, 5))
    np.testing.assert_array_equal(classes.simplify(spread), labels.reshape(1, 4, 1))


def test_simplify_keeps_the_longest_axis_and_unites_along_the_others() -> None:
    classes = ChannelClasses()
    labels = classes.make(12)
    for shape, united in (((3, 4), labels.reshape(3, 4)), ((4, 3), None)):
        simplified = classes.simplify(labels.reshape(shape))
        if united is not None:
            np.testing.assert_array_equal(simplified, united[:1])
            assert all((classes.find(column) == column[0]).all() for column in united.T)
    # Uniting (i, j) with (0, j) for 3×4 and then rows of 4×3 leaves a single class.
    assert len(np.unique(classes.find(labels))) == 1


def test_simplify_tells_that_fixed_positions_keep_their_column() -> None:
    classes = ChannelClasses()
    labels = np.concatenate([classes.make(3), [FIXED] * 3]).reshape(2, 3)
    classes.simplify(labels)
    assert all("share" in classes.reason(int(root)) for root in classes.find(labels[0]))


def test_axes() -> None:
    classes = ChannelClasses()
    labels = classes.make(3).reshape(1, 3, 1)
    assert varying_axes(labels) == [1]
    assert varying_axes(fixed_labels(4)) == []
    np.testing.assert_array_equal(read_axis(labels, 1), labels.reshape(-1))
    assert read_axis(fixed_labels(3), 1).tolist() == [FIXED]
