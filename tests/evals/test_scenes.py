"""The judge of scenes: it reads back what was drawn, and says no to every change."""

import numpy as np
import pytest

from gen_jax.data import open_source
from gen_jax.data.scenes import (
    COLORS,
    HELD_OUT,
    KINDS,
    SHAPES,
    Scene,
    draw_scene,
    make_edit,
    make_scene,
)
from gen_jax.evals.scenes import find_things, judge_scene, rate_edits, rate_scenes
from gen_jax.launch.build.experiment import build
from gen_jax.launch.build.sources import check_source
from gen_jax.launch.config.files import load_config


def scenes(num, **options):
    rng = np.random.default_rng(0)
    return [make_scene(rng, **options) for _ in range(num)]


@pytest.mark.parametrize("side", [24, 32])
def test_drawn_scenes_are_read_without_an_error(side):
    some = scenes(200)
    noise = np.random.default_rng(1).integers(-1, 2, (200, side, side, 3))
    images = np.stack([draw_scene(scene.things, side) for scene in some])
    images = np.clip(images + noise, 0, 255).astype(np.uint8)  # by one gray level
    rated = rate_scenes(images, [scene.caption for scene in some])
    assert {fact: share for fact, share in rated.items() if fact != "fit"} == dict.fromkeys(
        ("all", *(f"all_{kind}" for kind in KINDS), "binding", "color", "count", "position",
         "shape", "size"), 1.0,
    )  # fmt: skip
    assert rated["fit"] > 0.85


def another(values, one):
    return next(value for value in values if value != one)


def test_four_changes_are_noticed_and_nothing_else_is_blamed():
    for scene in scenes(60):
        first, *rest = scene.things
        changes = {"color": (first._replace(color=another(COLORS, first.color)), *rest)}
        changes["shape"] = (first._replace(shape=another(SHAPES, first.shape)), *rest)
        changes["count"] = scene.things[1:]
        if scene.kind == "relation":  # the other way round
            other = rest[0]
            changes["position"] = (
                first._replace(row=other.row, column=other.column),
                other._replace(row=first.row, column=first.column),
            )
        for fact, things in changes.items():
            facts = judge_scene(scene.caption, find_things(draw_scene(things, 32)))
            assert not facts[fact], (scene.caption, fact)
            assert not facts["all"]
            if fact == "position":
                assert all(facts[name] for name in ("color", "shape", "count", "binding"))


def test_held_out_pairs_are_seen_only_when_asked_for():
    def pairs(scene: Scene):
        return [(thing.color, thing.shape) for thing in scene.things]

    assert not HELD_OUT & {pair for scene in scenes(300) for pair in pairs(scene)}
    for scene in scenes(100, held_out=True):
        assert pairs(scene)[0] in HELD_OUT


def test_a_source_of_scenes_is_the_same_in_any_order():
    one, other = (open_source("scenes:16x16x3", "train", (16, 16, 3)) for _ in range(2))
    rows = np.array([5, 2, 16_000])
    first = one.read(rows)["image"]
    other.read(rows[::-1])
    np.testing.assert_array_equal(other.read(rows)["image"], first)
    assert one.captions(rows) == other.captions(rows)
    held = open_source("scenes:16x16x3", "test", (16, 16, 3))
    assert held.captions(rows[:2]) != one.captions(rows[:2])


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="a dog"):
        judge_scene("a dog", [])


def test_the_judge_of_edits_reads_what_was_changed_and_what_was_not():
    edits = [make_edit(np.random.default_rng(i), held_out=i % 2 == 1) for i in range(60)]
    after = np.stack([draw_scene(edit.after, 24) for edit in edits])
    before = np.stack([draw_scene(edit.before, 24) for edit in edits])
    assert rate_edits(after, edits) == {"changed": 1.0, "kept": 1.0, "all": 1.0}
    unchanged = rate_edits(before, edits)
    assert unchanged["changed"] == 0
    assert unchanged["kept"] == 1
    moved = rate_edits(np.roll(after, 5, axis=2), edits)
    assert moved["kept"] == 0
    other = rate_edits(np.roll(after, 1, axis=0), edits)
    assert other["all"] < 0.1
    kinds = {edit.instruction.split()[0] for edit in edits}
    assert kinds == {"make", "turn"}
    pairs = [(edit.after[0].color, edit.after[0].shape) in HELD_OUT for edit in edits]
    assert pairs == [i % 2 == 1 for i in range(60)]


def test_edits_are_a_source_with_the_scene_before():
    source = open_source("edit_scenes:16x16x3", "train", (16, 16, 3))
    examples = source.read(np.array([3, 0]))
    alone = source.read(np.array([3]))
    np.testing.assert_array_equal(examples["source"][0], alone["source"][0])
    assert (examples["image"] != examples["source"]).any(axis=(1, 2, 3)).all()
    assert len(source.captions(np.arange(4))) == 4
    config = load_config("edit_scenes:tiny", ["text.tokenizer=bytes", "text.vocabulary=259"])
    check_source(source, build(config), config)
