"""Captioned scenes: each is what its caption says, the same from its number alone, and some are never trained on."""

import numpy as np
import pytest
import torch

from diffusion_book.data import Scenes, captions, load, scenes
from diffusion_book.data.captions import Scene, Thing

MANY = torch.arange(6000)


def luminance(x: np.ndarray) -> np.ndarray:
    return x @ np.array([0.299, 0.587, 0.114])


# What is in the set ----------------------------------------------------------------------------------------------


def test_a_picture_depends_on_the_seed_and_its_number_alone():
    index = torch.tensor([5, 999_999, 17])
    x, told = Scenes(seed=3).take(index)
    for i, number in enumerate(index):
        alone, words = Scenes(seed=3).take(number[None])
        assert torch.equal(alone[0], x[i])
        assert torch.equal(words["tokens"][0], told["tokens"][i])
    for other in (Scenes(seed=4), Scenes("test", seed=3)):
        assert not torch.equal(other.take(index)[0], x)
        assert other.sha256 != Scenes(seed=3).sha256
    assert Scenes(seed=3).sha256 == Scenes(seed=3).sha256


def test_the_pictures_are_those_that_models_were_trained_on():
    """The first of them, to the last bit: weights know no other words and no other icons."""
    found = load("scenes").captions(torch.arange(2))
    assert found == ["a little yellow house under a large blue ball, on green", "a small red umbrella, on green"]
    plainly = Scenes().captions(torch.arange(1))
    assert plainly == ["a small yellow house below a big blue ball, on green"]
    assert captions.encode(plainly)[0, :12].tolist() == [1, 4, 9, 41, 18, 1, 5, 8, 29, 3, 7, 0]
    ink = scenes.draw(load("scenes").layout(torch.arange(64))).astype(np.int64)
    assert abs(ink.sum() - 37159975) <= 64  # Pillow's smoothing may differ in a last bit


def test_no_two_choices_go_together_that_have_nothing_to_do_with_each_other():
    """Chi-squared of independence, in which a counter that is scrambled badly would show."""
    layout = Scenes().layout(torch.arange(20_000))
    columns = [layout.kind, layout.sizes[:, 0], layout.flipped[:, 0], layout.ground, layout.objects[:, 0]]
    for i, a in enumerate(columns):
        for b in columns[:i]:
            table = np.array([[((a == p) & (b == q)).sum() for q in np.unique(b)] for p in np.unique(a)])
            expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            free = (table.shape[0] - 1) * (table.shape[1] - 1)
            assert ((table - expected) ** 2 / expected).sum() < free + 5 * (2 * free) ** 0.5


def test_numbers_are_as_uniform_as_random_ones():
    u = Scenes()._uniform(torch.arange(50_000), "layout", 4)
    assert 0 <= u.min() < u.max() < 1
    for column in u.T:
        assert abs(column.mean() - 0.5) < 4 / (12 * len(u)) ** 0.5
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 4 / len(u) ** 0.5
        assert np.abs(np.sort(column) - (np.arange(len(u)) + 0.5) / len(u)).max() < 2 / len(u) ** 0.5  # Kolmogorov


@pytest.mark.parametrize("varied", [False, True])
def test_a_caption_says_what_is_drawn(varied):
    for split in ("train", "pairs", "objects", "tints"):
        index = MANY[:1500]
        data = Scenes(split, varied=varied)
        for caption, there in zip(data.captions(index), scenes.described(data.layout(index))):
            said = captions.read(caption)
            assert (said.relation, said.count) == (there.relation, there.count)
            assert said.ground in ({there.ground, None} if varied else {there.ground})
            for a, b in zip(said.things, there.things, strict=True):
                assert a.object == b.object
                assert (a.tint, a.size) == (b.tint, b.size) or varied
                assert a.tint in (b.tint, None)
                assert a.size in (b.size, None)


def test_the_relation_is_true_and_no_other_is():
    for size in (32, 64):
        layout = Scenes(size=size).layout(MANY)
        side = np.array(scenes.sides(size))[layout.sizes]
        two = layout.kind != scenes.ONE
        (y1, y2), (x1, x2), (h1, h2) = layout.top[two].T, layout.left[two].T, side[two].T
        true = np.stack([x1 + h1 <= x2, x2 + h2 <= x1, y1 + h1 <= y2, y2 + h2 <= y1], axis=1)
        assert (true.sum(1) == 1).all()
        assert (true.argmax(1) == layout.relation[two]).all()


@pytest.mark.parametrize("size", [32, 64])
def test_objects_lie_inside_and_do_not_overlap(size):
    layout = Scenes(size=size).layout(MANY)
    there = layout.objects != scenes.NOTHING
    side = np.array(scenes.sides(size))[layout.sizes]
    for place in (layout.top, layout.left):
        assert (place[there] >= 0).all()
        assert (place + side)[there].max() == size
    masks = scenes.masks(layout, size)
    assert not (masks[:, 0] & masks[:, 1]).any()
    assert (masks.flatten(2).any(2).numpy() == there).all()


def test_every_word_of_the_grammar_occurs_and_none_that_is_held_out():
    def words_of(*splits):
        return {
            word
            for split in splits
            for varied in (False, True)
            for row in captions.decode(Scenes(split, varied=varied).take(MANY)[1]["tokens"])
            for word in row.split()
        }

    new = {*captions.NEW_TINTS, *captions.NEW_OBJECTS, *map(captions.plural, captions.NEW_OBJECTS)}
    assert words_of("train") == set(captions.WORDS[1:]) - new
    assert words_of("objects", "tints") >= new


def test_held_out_pairs_never_occur_in_training_and_always_in_their_split():
    def pairs(split, column):
        layout = Scenes(split).layout(MANY)
        there = layout.objects[:, column] >= 0
        named = zip(layout.objects[there, column], layout.tints[there, column])
        return [(scenes.ALL_OBJECTS[a], scenes.ALL_TINTS[b]) for a, b in named]

    held_out = set(scenes.HELD_OUT_PAIRS)
    assert len(held_out) == 8
    for split in ("train", "test"):
        seen = {*pairs(split, 0), *pairs(split, 1)}
        assert not seen & held_out
        assert len(seen) == len(captions.OBJECTS) * len(captions.TINTS) - len(held_out)
    assert set(pairs("pairs", 0)) == held_out
    assert {name for name, _ in pairs("objects", 0)} == set(captions.NEW_OBJECTS)
    assert {tint for _, tint in pairs("tints", 0)} == set(captions.NEW_TINTS)


# How it is drawn -------------------------------------------------------------------------------------------------


def one(name: str, tint: str, size: str, ground: str, top: int = 3, left: int = 5) -> scenes.Layout:
    first = (scenes.ALL_OBJECTS.index(name), scenes.ALL_TINTS.index(tint), captions.SIZES.index(size), 0, top, left)
    pairs = [np.array([[value, scenes.NOTHING]]) for value in first]
    return scenes.Layout(np.array([scenes.ONE]), *pairs, np.array([-1]), np.array([captions.GROUNDS.index(ground)]))


def test_an_object_is_drawn_where_the_layout_says_and_nowhere_else():
    plain = scenes.draw(one("moon", "red", "small", "blue"))[0].astype(int)
    different = (plain != plain[0, 0]).any(-1)
    assert plain[0, 0].tolist() == [0xB4, 0xDC, 0xFF]
    rows, columns = np.nonzero(different)
    assert (rows.min(), rows.max()) == (3, 13)
    assert 5 <= columns.min() < columns.max() <= 15
    mask = scenes.masks(one("moon", "red", "small", "blue"))[0, 0].numpy()
    assert different[mask].all()
    assert 0.3 * different.sum() < mask.sum() <= different.sum()


@pytest.mark.parametrize("name", scenes.ALL_OBJECTS)
def test_every_icon_takes_a_tint_in_its_bright_parts_and_stays_dark_in_its_dark_ones(name):
    """White and brown icons too: half of the brightness of the tint is reached by a quarter of the object at least."""
    for tint, colour in zip(scenes.ALL_TINTS, scenes.colours("tint", scenes.ALL_TINTS)):
        layout = one(name, tint, "big", "white", 0, 0)
        inside = scenes.draw(layout, 64)[0][scenes.masks(layout, 64)[0, 0].numpy()].astype(float)
        share = (inside @ colour) / (colour @ colour)
        of_tint = np.abs(inside - share[:, None] * colour).max(1) < 40  # along the line from black to the tint
        assert (of_tint & (share > 0.5)).mean() > 0.25
        assert (luminance(inside) < 0.5 * luminance(colour[None])).any()


def test_any_two_objects_differ_at_the_smaller_size_under_one_tint():
    colour, opacity = scenes.sprites(32)
    side = scenes.sides(32)[0]
    for tint in range(len(scenes.ALL_TINTS)):
        drawn = (colour[0, :, :, tint] + 255 * (1 - opacity[0][..., None]))[:, :, :side, :side] / 127.5 - 1
        plain, turned = torch.from_numpy(drawn).flatten(2).double()
        distance = torch.minimum(torch.cdist(plain, plain), torch.cdist(plain, turned)) / plain.shape[1] ** 0.5
        assert distance.fill_diagonal_(torch.inf).min() > 0.55


def test_a_flipped_icon_is_the_mirror_image():
    for values in scenes.sprites(64):
        for size, side in enumerate(scenes.sides(64)):
            plain, turned = (
                values[size][:, ..., :side, :side] if values.ndim == 5 else values[size][..., :side, :side, :]
            )
            axis = -1 if values.ndim == 5 else -2
            assert np.array_equal(np.flip(plain, axis), turned)


def test_edges_are_where_neighbours_differ():
    x = torch.full((1, 3, 8, 8), -1.0)
    x[..., 4:] = 1
    expected = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    expected[..., 3:5] = True
    assert torch.equal(scenes.edges(x), expected)
    assert torch.equal(scenes.edges(x.mT), expected.mT)
    assert not scenes.edges(x, threshold=1.01).any()


def test_pictures_are_in_the_range_of_all_images_and_of_the_size_that_is_asked_for():
    for size in (32, 64):
        data = load("scenes", size=size)
        x, told = data.take(torch.tensor([1, 2]))
        assert x.shape == (2, *data.shape) == (2, 3, size, size)
        assert x.dtype == torch.float32
        assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1
        assert told["tokens"].shape == (2, captions.LONGEST)
        assert data.classes == 0


def test_a_larger_drawing_is_of_the_same_scene():
    """The places are at most a pixel apart, in pixels of the smaller."""
    small, large = (Scenes(size=size).layout(MANY) for size in (32, 64))
    assert Scenes(size=32).captions(MANY[:50]) == Scenes(size=64).captions(MANY[:50])
    assert np.abs(small.left[:, 0] - large.left[:, 0] / 2).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "unknown split 'val'"),
        ({"size": 28}, "scenes are of 32 or 64 pixels a side, got size = 28"),
        ({"count": 0}, "count must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


def test_there_is_no_picture_after_the_last():
    with pytest.raises(IndexError, match=r"numbered 0 … 9, got 0 … 10"):
        Scenes(count=10).take(torch.tensor([0, 10]))


# Captions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "scene"),
    [
        (
            "a small red cat left of a big blue duck, on yellow",
            Scene((Thing("cat", "red", "small"), Thing("duck", "blue", "big")), "left of", 2, "yellow"),
        ),
        ("two big green octopuses, on pink", Scene((Thing("octopus", "green", "big"),), None, 2, "pink")),
        ("a small purple cactus, on white", Scene((Thing("cactus", "purple", "small"),), None, 1, "white")),
        ("a cat", Scene((Thing("cat"),))),
        ("two keys", Scene((Thing("key"),), None, 2)),
        ("a red key over a bunny", Scene((Thing("key", "red"), Thing("rabbit")), "above", 2)),
    ],
)
def test_a_caption_is_read_as_what_it_says(caption, scene):
    assert captions.read(caption) == scene
    assert captions.read(captions.write(scene)) == scene
    assert captions.read(captions.write(scene, lambda word: captions.SYNONYMS[word])) == scene
    if "over" not in caption:
        assert captions.write(scene) == caption


@pytest.mark.parametrize("caption", ["", "cat cat", "a red", "two cat", "a cat left a dog", "a red small cat"])
def test_what_is_no_sentence_is_refused(caption):
    with pytest.raises(ValueError, match="is no caption of these pictures, such as"):
        captions.read(caption)


def test_words_become_numbers_and_words_again():
    said = ["a small red cat, on yellow", "", "two keys"]
    tokens = captions.encode(said)
    assert tokens.shape == (3, captions.LONGEST)
    assert captions.decode(tokens) == ["a small red cat on yellow", "", "two keys"]
    assert not tokens[1].any()


def test_a_word_that_nobody_knows_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="unknown word 'rabit'; did you mean 'rabbit'"):
        captions.encode(["a rabit"])
    with pytest.raises(ValueError, match="at most 16 words, got 17"):
        captions.encode(["a " * 17])
