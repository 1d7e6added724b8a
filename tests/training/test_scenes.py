"""Drawn scenes: the same seed gives the same image, and captions say nothing untrue."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from training.scenes.captions import Caption, caption, vocabulary
from training.scenes.render import render
from training.scenes.scene import ATTRIBUTES, Scene, random_scene

SAYS = {
    "time": {"day": r"\bday\b|daylight|noon", "sunset": "sunset|evening|dusk", "night": r"\bnight\b|dark"},
    "ground": {
        "sea": r"\bsea\b|ocean",
        "field": "fields?|meadow|grass",
        "desert": "desert",
        "snow": r"\bsnow\b|snowy plain|snowy land",
    },
    "background": {
        "none": "flat horizon|no mountains or hills",
        "mountains": "(?<!no )mountains",
        "hills": "(?<!or )hills",
    },
    "clouds": {"none": "clear sky|no clouds", "few": "a few clouds", "many": "many clouds|cloudy"},
}
THING = {"house": "house", "boat": "(?:sailing )?(?:boat|ship)", "balloon": "(?:hot air )?balloon"}


def scenes(count: int, seed: int = 5) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def captioned(count: int) -> list[tuple[Scene, Caption]]:
    rng = np.random.default_rng(6)
    return [(scene, caption(scene, rng)) for scene in scenes(count)]


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_scene_always_gives_the_same_picture(size: int) -> None:
    for scene in scenes(4):
        picture = render(scene, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture, render(scene, size))


def test_another_colour_changes_the_house_and_nothing_around_it() -> None:
    scene = next(s for s in scenes(50) if s.house == "red")
    empty = replace(scene, house="none", house_size="none", house_place="none")
    house = (render(scene) != render(empty)).any(axis=2)
    repainted = (render(scene) != render(replace(scene, house="blue"))).any(axis=2)
    assert repainted.any() and not (repainted & ~house).any()


def test_labels_name_each_attributes_value() -> None:
    for scene in scenes(20):
        named = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), scene.labels(), strict=True)}
        assert named == {name: getattr(scene, name) for name in ATTRIBUTES}


def test_what_is_absent_has_no_place_and_no_size() -> None:
    for scene in scenes(300):
        for thing in ("body", "house", "tree", "boat", "balloon"):
            assert (getattr(scene, thing) == "none") == (getattr(scene, f"{thing}_place") == "none")
        assert scene.boat == "none" or scene.ground == "sea"


@pytest.mark.parametrize("attribute", SAYS)
def test_a_caption_says_the_setting_as_it_is_or_not_at_all(attribute: str) -> None:
    for scene, said in captioned(400):
        heard = {value for value, words in SAYS[attribute].items() if re.search(words, said.text)}
        expected = {getattr(scene, attribute)} if attribute in said.stated else set()
        assert heard == expected, said.text


@pytest.mark.parametrize("thing", THING)
def test_a_caption_gives_a_thing_its_own_colour_and_place(thing: str) -> None:
    pattern = rf"(?P<colour>\w+) {THING[thing]}\b(?: (?:on|in) the (?P<place>left|middle|right))?"
    for scene, said in captioned(400):
        found = re.search(pattern, said.text)
        assert (found is not None) == (thing in said.stated), said.text
        if found is not None:
            assert found["colour"] == getattr(scene, thing)
            assert (found["place"] is not None) == (f"{thing}_place" in said.stated)
            assert found["place"] in (None, getattr(scene, f"{thing}_place"))


def test_captions_use_only_words_of_the_vocabulary() -> None:
    words = set(vocabulary())
    for _, said in captioned(400):
        assert set(said.text.replace(",", "").split()) <= words


def test_flags_follow_the_order_of_the_attributes() -> None:
    for _, said in captioned(20):
        assert {name for name, flag in zip(ATTRIBUTES, said.flags(), strict=True) if flag} == set(said.stated)
