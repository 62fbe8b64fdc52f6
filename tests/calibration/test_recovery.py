"""Recovery: what it tunes, what it keeps, that it never makes things worse, and that a seed repeats it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

import onnx_basisprune.calibration.pace as pace
import onnx_basisprune.calibration.recovery as recovery
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.hints import Hint
from onnx_basisprune.calibration.lessons import RecoverySettings
from onnx_basisprune.calibration.optimizer import Optimizer
from onnx_basisprune.calibration.recovery import Distillation, distillation_loss
from onnx_basisprune.calibration.student import RecoveryMode
from onnx_basisprune.calibration.teacher import Teacher
from onnx_basisprune.planning.types import Head, Operation, Program, TensorSpec
from onnx_basisprune.results import RecoveryReport

SOFTMAX, SIGMOID = Head("softmax", "z", "p"), Head("sigmoid", "z", "p")
MODES: list[RecoveryMode] = ["scale", "full"]
SETTINGS = RecoverySettings(steps=30, batch_size=16, chunk_size=16, augmentation="none", layout="nchw", seed=0)
COUNT = 80


def step(op_type: str, inputs: list[str], output: str, **attributes: object) -> Operation:
    return Operation(output, op_type, "", 17, tuple(inputs), (output,), attributes)


def draw(seed: int, *shape: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
    return values.astype(np.float32)


WEIGHTS = {
    "c1.w": 2 * draw(1, 8, 3, 3, 3),
    "c1.b": draw(2, 8),
    "c2.w": 2 * draw(3, 8, 8, 3, 3),
    "c2.b": draw(4, 8),
    "fc.w": 4 * draw(5, 5, 8),
    "fc.b": draw(6, 5),
}
TAIL = [
    step("Relu", ["c2"], "a2"),
    step("GlobalAveragePool", ["a2"], "g"),
    step("Flatten", ["g"], "f"),
    step("Gemm", ["f", "fc.w", "fc.b"], "z", transB=1),
]
ROOT = [step("Conv", ["x", "c1.w", "c1.b"], "c1", pads=[1, 1, 1, 1]), step("Relu", ["c1"], "a1")]
INPUTS = (TensorSpec("x", "float32", (None, 3, 8, 8)),)


def make_teacher() -> Program:
    conv = step("Conv", ["a1", "c2.w", "c2.b"], "c2", pads=[1, 1, 1, 1])
    return Program((*ROOT, conv, *TAIL), WEIGHTS, INPUTS, ())


def make_student(rank: int) -> Program:
    """The teacher with `c2` cut to a rank by its SVD."""
    U, D, Vt = np.linalg.svd(WEIGHTS["c2.w"].reshape(8, -1), full_matrices=False)
    pair = {
        "c2.w.basis": (np.sqrt(D[:rank, None]) * Vt[:rank]).reshape(rank, 8, 3, 3).astype(np.float32),
        "c2.w.scaling": (U[:, :rank] * np.sqrt(D[:rank])).reshape(8, rank, 1, 1).astype(np.float32),
    }
    kept = {name: values for name, values in WEIGHTS.items() if name != "c2.w"}
    convs = [
        step("Conv", ["a1", "c2.w.basis"], "c2.basis", pads=[1, 1, 1, 1]),
        step("Conv", ["c2.basis", "c2.w.scaling", "c2.b"], "c2"),
    ]
    return Program((*ROOT, *convs, *TAIL), {**kept, **pair}, INPUTS, ())


IMAGES = np.random.default_rng(7).standard_normal((COUNT, 3, 8, 8)).astype(np.float32)


def load_images(indices: NDArray[np.int64]) -> NDArray[np.float32]:
    assert indices.max() < COUNT
    return IMAGES[indices]


def make_distillation(
    rank: int = 2,
    head: Head = SOFTMAX,
    settings: RecoverySettings = SETTINGS,
    count: int = COUNT,
    hints: tuple[Hint, ...] = (),
) -> Distillation:
    student = make_student(rank)
    classifier = student.operations[-1]
    teacher = Teacher(make_teacher(), head, load_images, count, settings)
    return Distillation(teacher, student, classifier, {"c2": "c2.w.scaling"}, hints)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID])
def test_betters_the_held_out_loss(head: Head, mode: RecoveryMode) -> None:
    told: list[int] = []
    arrays, report = make_distillation(head=head, settings=replace(SETTINGS, mode=mode)).recover(told.append)
    assert report.kept
    assert report.held_out_loss_after < 0.85 * report.held_out_loss_before
    assert report.steps == sum(told) == 30
    assert report.mode == mode
    assert report.curve[0] == (0, report.held_out_loss_before, 0.0)
    assert [step for step, _, _ in report.curve] == [0, 5, 10, 15, 20, 25, 30]
    assert report.held_out_loss_after == min(loss for _, loss, _ in report.curve)
    assert report.learning_rate is not None
    assert 0 < max(rate for _, _, rate in report.curve) <= report.learning_rate
    assert report.images_per_second is not None
    assert report.images_per_second > 0
    # The loss that is reported is that of the arrays that are handed back.
    student = make_student(2)
    tuned = replace(student, initializers={**student.initializers, **arrays})
    held_out = np.random.default_rng((0, COUNT)).permutation(COUNT)[:8]
    with torch.no_grad():
        x = torch.from_numpy(IMAGES[held_out])
        logits, target = (Executor(program).run({"x": x}, ["z"])["z"] for program in (tuned, make_teacher()))
        loss = float(distillation_loss(logits, target, head)) / 8
    assert loss == pytest.approx(report.held_out_loss_after, rel=1e-4)


def test_tunes_scaling_factors_biases_and_classifier_and_nothing_else() -> None:
    arrays, _ = make_distillation().recover()
    before = make_student(2).initializers
    assert set(arrays) == {"c1.b", "c2.b", "fc.w", "fc.b", "c2.w.scaling"}
    for name, values in arrays.items():
        assert (values.shape, values.dtype) == (before[name].shape, np.float32)
        assert np.abs(values - before[name]).max() > 0
    factors = arrays["c2.w.scaling"] / before["c2.w.scaling"]
    # One factor per basis channel, float32.
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:1], factors.shape), rtol=1e-5)


def test_full_tunes_every_weight_and_does_better() -> None:
    settings = replace(SETTINGS, steps=100)
    full, report = make_distillation(4, settings=replace(settings, mode="full")).recover()
    _, scale = make_distillation(4, settings=settings).recover()
    before = make_student(4).initializers
    assert set(full) == set(before)
    for name, values in full.items():
        assert (values.shape, values.dtype) == (before[name].shape, np.float32)
        assert np.abs(values - before[name]).max() > 0
    assert report.held_out_loss_after < scale.held_out_loss_after


def test_hints_bring_the_graph_nearer_inside_where_all_weights_are_trained() -> None:
    settings = replace(SETTINGS, steps=60, mode="full")
    student, errors = make_student(4), []
    for hints in ((), (Hint("a2"),)):
        arrays, report = make_distillation(4, settings=settings, hints=hints).recover()
        tuned = replace(student, initializers={**student.initializers, **arrays})
        found, wanted = (Executor(item).compute({"x": IMAGES}, ["a2"])["a2"] for item in (tuned, make_teacher()))
        errors.append(float(np.square(found - wanted).mean()))
        # What is reported stays the distance of the outputs.
        assert report.curve[0][1] == pytest.approx(make_distillation(4).recover()[1].curve[0][1])
    assert errors[1] < 0.9 * errors[0]


def test_hints_are_left_out_where_scaling_factors_are_trained() -> None:
    _, without = make_distillation().recover()
    _, report = make_distillation(hints=(Hint("a2"),)).recover()
    assert report.curve == without.curve


def test_student_of_the_caller_is_not_changed() -> None:
    student = make_student(2)
    copies = {name: values.copy() for name, values in student.initializers.items()}
    teacher = Teacher(make_teacher(), SOFTMAX, load_images, COUNT, SETTINGS)
    Distillation(teacher, student, None, {"c2": "c2.w.scaling"}).recover()
    for name, values in copies.items():
        np.testing.assert_array_equal(student.initializers[name], values)


def test_students_of_one_teacher_learn_the_same_whoever_was_taught_before() -> None:
    settings = replace(SETTINGS, steps=6, augmentation="shift+flip")
    alone, report = make_distillation(settings=settings).recover()
    teacher = Teacher(make_teacher(), SOFTMAX, load_images, COUNT, settings)
    for rank in (4, 2):
        student = make_student(rank)
        last, again = Distillation(teacher, student, student.operations[-1], {"c2": "c2.w.scaling"}).recover()
    assert again.curve == report.curve
    for name, values in alone.items():
        np.testing.assert_array_equal(values, last[name])


def test_a_seed_repeats_and_another_differs() -> None:
    settings = replace(SETTINGS, steps=6, augmentation="shift+flip")
    first, second, other = (make_distillation(settings=replace(settings, seed=seed)).recover()[0] for seed in (3, 3, 4))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert any(not np.array_equal(values, other.get(name)) for name, values in first.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [1e3, np.inf])
def test_a_hopeless_learning_rate_returns_nothing_worse(
    monkeypatch: pytest.MonkeyPatch, rate: float, mode: RecoveryMode
) -> None:
    monkeypatch.setattr(recovery, "choose_first_rate", lambda *_: rate)
    arrays, report = make_distillation(settings=replace(SETTINGS, mode=mode)).recover()
    assert report.held_out_loss_after <= report.held_out_loss_before
    assert report.kept == bool(arrays)
    for values in arrays.values():
        assert np.isfinite(values).all()


def test_a_rate_that_is_too_high_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    # An attempt with it diverges; a third, or a ninth, works.
    monkeypatch.setattr(recovery, "choose_first_rate", lambda *_: 30.0)
    monkeypatch.setattr(recovery, "_ATTEMPTS", 8)
    arrays, report = make_distillation().recover()
    assert report.kept
    assert arrays
    assert report.learning_rate is not None
    assert report.learning_rate < 30.0
    # The attempts that were given up count.
    assert report.steps > 30
    assert report.held_out_loss_after < report.held_out_loss_before


def test_an_exact_student_is_left_alone() -> None:
    arrays, report = make_distillation(rank=8).recover()
    assert report.held_out_loss_before < 1e-6
    assert report.held_out_loss_after <= report.held_out_loss_before
    assert report.kept == bool(arrays)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 10, 11])
def test_any_number_of_steps(steps: int) -> None:
    _, report = make_distillation(settings=replace(SETTINGS, steps=steps)).recover()
    assert report.steps == steps
    assert report.curve[-1][0] == steps


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images(count: int) -> None:
    arrays, report = make_distillation(settings=replace(SETTINGS, steps=3), count=count).recover()
    assert np.isfinite(report.held_out_loss_before)
    assert report.kept == bool(arrays)


def test_chunks_add_up_to_the_batch() -> None:
    """A step in chunks of 5 is a step of 16: the same gradients, so the same first update."""
    gradients = []
    for size in (16, 5):
        distillation = make_distillation(settings=replace(SETTINGS, chunk_size=size, steps=1))
        student = distillation._make_student()
        distillation._take_step(student, Optimizer(student.changes, ()), 0.0, 0)
        gradients.append([change.grad.clone() for change in student.changes.values() if change.grad is not None])
    assert len(gradients[0]) == 5
    for whole, parts in zip(*gradients, strict=True):
        # float32 sums in another order (bfloat16 where the CPU computes in it).
        torch.testing.assert_close(parts, whole, rtol=1e-2, atol=1e-3 * float(whole.abs().max()))


@pytest.mark.parametrize("shape", [(4, 3), (4, 1)])
def test_loss_is_the_divergence_at_two_degrees(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    if shape[1] == 1:
        p, q = torch.sigmoid(target / 2), torch.sigmoid(logits / 2)
        expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    else:
        p, q = functional.softmax(target / 2, dim=1), functional.softmax(logits / 2, dim=1)
        expected = 4 * (p * (p / q).log()).sum()
    head = Head("logits", "z", "z")
    torch.testing.assert_close(distillation_loss(logits, target, head), expected, rtol=1e-9, atol=1e-12)
    assert float(distillation_loss(target, target, head)) == pytest.approx(0.0, abs=1e-12)


def test_fillers_of_a_fixed_batch_do_not_count() -> None:
    settings = replace(SETTINGS, steps=4, chunk_size=7)
    (first, free), (second, fixed) = (
        make_distillation(settings=replace(settings, fixed_batch=size)).recover() for size in (None, 7)
    )
    assert fixed.held_out_loss_before == pytest.approx(free.held_out_loss_before, rel=1e-4)
    assert fixed.held_out_loss_after == pytest.approx(free.held_out_loss_after, rel=1e-2)
    assert first.keys() == second.keys()


def test_each_attempt_counts_its_steps_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "choose_first_rate", lambda *_: 30.0)
    attempts = [0]
    _, report = make_distillation().recover(
        lambda steps: attempts.__setitem__(-1, attempts[-1] + steps), lambda: attempts.append(0)
    )
    assert len(attempts) > 1
    assert max(attempts) <= SETTINGS.steps
    assert sum(attempts) == report.steps


def test_ends_early_where_it_no_longer_helps() -> None:
    """Eight images that are soon known by heart: the held-out loss stops falling long before the last step."""
    told: list[int] = []
    settings = replace(SETTINGS, steps=400, mode="full")
    arrays, report = make_distillation(rank=7, settings=settings, count=8).recover(told.append)
    assert report.steps == sum(told) < 400
    # Not before the rate has come down.
    assert report.learning_rate is not None
    assert report.curve[-1][2] < 0.05 * report.learning_rate
    assert report.held_out_loss_after <= report.held_out_loss_before
    assert report.kept == bool(arrays)


def test_with_little_time_fewer_steps_go_through_the_whole_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])
    settings = replace(SETTINGS, steps=100)

    def recover(deadline: float | None) -> RecoveryReport:
        now[0] = 0.0

        def pass_time(steps: int) -> None:
            now[0] += steps

        return make_distillation(settings=settings).recover(pass_time, deadline=deadline)[1]

    hurried, whole, ample = recover(50.0), recover(None), recover(1e6)
    assert hurried.hurried
    assert 40 <= hurried.steps <= 50
    assert hurried.curve[-1][2] < 0.01 * max(rate for _, _, rate in hurried.curve)
    assert hurried.kept
    # Half of the steps go more than half of the way.
    gained, possible = (report.held_out_loss_before - report.held_out_loss_after for report in (hurried, whole))
    assert gained > 0.7 * possible
    assert (whole.hurried, ample.hurried, ample.steps) == (False, False, 100)
    assert ample.curve == whole.curve


def test_no_lower_rate_is_tried_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "choose_first_rate", lambda *_: 30.0)
    _, report = make_distillation().recover(deadline=0.0)
    assert report.learning_rate == 30.0
    assert report.held_out_loss_after <= report.held_out_loss_before


def test_reports_the_precision_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "choose_precision", lambda _: "float32")
    _, exact = make_distillation().recover()
    monkeypatch.setattr(recovery, "choose_precision", lambda _: "bfloat16")
    _, rounded = make_distillation().recover()
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    assert exact.curve != rounded.curve
    # Eight bits of mantissa in each step change little of what is reached.
    assert rounded.held_out_loss_after == pytest.approx(exact.held_out_loss_after, rel=0.05)


def test_nothing_to_tune() -> None:
    """Convs without biases, no pair, and no classifier that was found."""
    conv = step("Conv", ["x", "c1.w"], "c1")
    pool = [step("GlobalAveragePool", ["c1"], "g"), step("Flatten", ["g"], "z")]
    teacher = Program((conv, *pool), {"c1.w": WEIGHTS["c1.w"]}, INPUTS, ())
    student = replace(teacher, initializers={"c1.w": 1.1 * WEIGHTS["c1.w"]})
    arrays, report = Distillation(Teacher(teacher, SOFTMAX, load_images, COUNT, SETTINGS), student, None, {}).recover()
    assert arrays == {}
    assert (report.steps, report.kept) == (0, False)
    assert report.held_out_loss_after == report.held_out_loss_before > 0
