"""Captions from a grammar: each says some of a scene's attributes, in one of many wordings, and says nothing untrue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scenes.scene import ATTRIBUTES, Scene

TIME = {
    "day": ("by day", "in daylight", "at noon", "on a bright day", "day"),
    "sunset": ("at sunset", "in the evening", "at dusk", "sunset"),
    "night": ("at night", "under a night sky", "after dark", "night"),
}
GROUND = {  # after things that stand there
    "sea": ("by the sea", "at the sea", "on the beach by the sea", "on the shore of the ocean"),
    "field": ("in a green field", "on a meadow", "in the fields", "on the grass"),
    "desert": ("in the desert", "on desert sand", "in a sandy desert"),
    "snow": ("in the snow", "on a snowy plain", "in a snowy land"),
}
LAND = {  # alone
    "sea": ("the sea", "a calm sea", "the ocean"),
    "field": ("a green field", "a meadow", "green fields"),
    "desert": ("the desert", "a sandy desert", "desert sand"),
    "snow": ("the snow", "a snowy plain", "a snowy land"),
}
BACKGROUND = {
    "mountains": ("mountains behind", "mountains in the background", "in front of mountains", "with mountains"),
    "hills": ("hills behind", "hills in the background", "in front of hills", "with hills"),
    "none": ("a flat horizon", "no mountains or hills"),
}
CLOUDS = {
    "none": ("a clear sky", "no clouds"),
    "few": ("a few clouds", "with a few clouds"),
    "many": ("many clouds", "a cloudy sky", "with many clouds"),
}
PLACE = {"left": ("on the left",), "middle": ("in the middle",), "right": ("on the right",)}
TREE = {"oak": ("tree", "oak", "round tree"), "pine": ("pine", "pine tree", "fir"), "palm": ("palm", "palm tree")}
WORDS_FOR = {"boat": ("boat", "sailing boat", "ship"), "balloon": ("balloon", "hot air balloon")}
SIZE = {"small": ("small", "little", "tiny"), "big": ("big", "large")}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and the names of the attributes it states."""

    text: str
    stated: frozenset[str]

    def flags(self) -> list[bool]:
        """Whether each attribute is stated, in the order of ATTRIBUTES."""
        return [name in self.stated for name in ATTRIBUTES]


class Speaker:
    """Makes one caption; remembers what it has said."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        self.stated: set[str] = set()

    def caption(self) -> Caption:
        things = self._some(self._house, self._tree, self._boat, self._balloon)
        setting = self._some(self._background, self._clouds, self._body)
        time = self._say("time", TIME[self.scene.time]) if self._chance(0.92) else ""
        ground = ""
        if self._chance(0.95) or not things:
            ground = self._say("ground", (GROUND if things else LAND)[self.scene.ground])
        place = " ".join(part for part in (ground, time) if part)
        objects = ", ".join(things[:-1]) + (" and " if len(things) > 1 else "") + "".join(things[-1:])
        if things and self._chance(0.6):
            parts = [f"{objects} {place}".strip(), *setting]
        elif self._chance(0.5):
            parts = [place, objects, *setting]
        else:
            parts = [objects, *setting, place]
        return Caption(", ".join(part for part in parts if part), frozenset(self.stated))

    def _some(self, *phrases: object) -> list[str]:
        said = [phrase() for phrase in phrases]  # type: ignore[operator]
        kept = [phrase for phrase in said if phrase]
        return [kept[i] for i in self.rng.permutation(len(kept))]

    def _house(self) -> str:
        scene = self.scene
        if scene.house == "none" or not self._chance(0.95):
            return ""
        self.stated.add("house")
        size = self._say("house_size", SIZE[scene.house_size]) + " " if self._chance(0.6) else ""
        return f"a {size}{scene.house} house" + self._place("house_place", 0.6)

    def _tree(self) -> str:
        if self.scene.tree == "none" or not self._chance(0.92):
            return ""
        kind = self._say("tree", TREE[self.scene.tree])
        return f"{'an' if kind == 'oak' else 'a'} {kind}" + self._place("tree_place", 0.5)

    def _boat(self) -> str:
        return self._coloured("boat")

    def _balloon(self) -> str:
        return self._coloured("balloon")

    def _coloured(self, name: str) -> str:
        colour = getattr(self.scene, name)
        if colour == "none" or not self._chance(0.95):
            return ""
        self.stated.add(name)
        return f"a {colour} {self._one(WORDS_FOR[name])}" + self._place(f"{name}_place", 0.5)

    def _background(self) -> str:
        said = self._chance(0.25 if self.scene.background == "none" else 0.88)
        return self._say("background", BACKGROUND[self.scene.background]) if said else ""

    def _clouds(self) -> str:
        return self._say("clouds", CLOUDS[self.scene.clouds]) if self._chance(0.5) else ""

    def _body(self) -> str:
        scene = self.scene
        if not self._chance(0.5 if scene.body != "none" else 0.2):
            return ""
        self.stated.add("body")
        if scene.body == "none":
            return "no moon" if scene.time == "night" else "no sun"
        return f"the {scene.body}" + self._place("body_place", 0.6)

    def _place(self, attribute: str, share: float) -> str:
        if not self._chance(share):
            return ""
        return " " + self._say(attribute, PLACE[getattr(self.scene, attribute)])

    def _say(self, attribute: str, wordings: tuple[str, ...]) -> str:
        self.stated.add(attribute)
        return self._one(wordings)

    def _one(self, wordings: tuple[str, ...]) -> str:
        return wordings[self.rng.integers(len(wordings))]

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)


def caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """One caption of `scene`, lower-case; what it leaves out may be anything."""
    return Speaker(scene, rng).caption()


def vocabulary() -> list[str]:
    """Every word that a caption can have, sorted."""
    phrases = ["a", "an", "the", "and", "no", "house", "sun", "moon", *ATTRIBUTES["house"]]
    for table in (TIME, GROUND, LAND, BACKGROUND, CLOUDS, PLACE, TREE, WORDS_FOR, SIZE):
        phrases += [wording for wordings in table.values() for wording in wordings]
    return sorted({word for phrase in phrases for word in phrase.split()} - {"none"})
