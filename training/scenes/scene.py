"""What is in one landscape: fifteen attributes that a caption can name, and a seed for everything it cannot."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

PLACES = ("none", "left", "middle", "right")
COLOURS = ("none", "red", "blue", "yellow", "white", "green", "purple")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "time": ("day", "sunset", "night"),
    "ground": ("sea", "field", "desert", "snow"),
    "background": ("none", "mountains", "hills"),
    "clouds": ("none", "few", "many"),
    "body": ("none", "sun", "moon"),
    "body_place": PLACES,
    "house": COLOURS,
    "house_size": ("none", "small", "big"),
    "house_place": PLACES,
    "tree": ("none", "pine", "oak", "palm"),
    "tree_place": PLACES,
    "boat": COLOURS,
    "boat_place": PLACES,
    "balloon": COLOURS,
    "balloon_place": PLACES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One landscape. An object that is not there is "none" in its colour or kind, its size and its place."""

    time: str
    ground: str
    background: str = "none"
    clouds: str = "none"
    body: str = "none"
    body_place: str = "none"
    house: str = "none"
    house_size: str = "none"
    house_place: str = "none"
    tree: str = "none"
    tree_place: str = "none"
    boat: str = "none"
    boat_place: str = "none"
    balloon: str = "none"
    balloon_place: str = "none"
    seed: int = 0

    def labels(self) -> list[int]:
        """The index of each attribute's value, in the order of ATTRIBUTES."""
        return [values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()]


assert list(ATTRIBUTES) == [field.name for field in fields(Scene)][:-1]


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene in which nothing hides anything: things on the ground stand apart, so do things in the sky."""

    def pick(*values: str) -> str:
        return values[rng.integers(len(values))]

    time = pick("day", "sunset", "night")
    ground = pick("sea", "field", "desert", "snow")
    places = [str(place) for place in rng.permutation(PLACES[1:])]
    high = [str(place) for place in rng.permutation(PLACES[1:])]
    has = {
        "house": rng.random() < 0.7,
        "tree": rng.random() < 0.5,
        "boat": ground == "sea" and rng.random() < 0.6,
        "balloon": rng.random() < 0.35,
        "body": time == "sunset" or rng.random() < 0.75,
    }
    colours = COLOURS[1:]
    return Scene(
        time=time,
        ground=ground,
        background=pick("none", "mountains", "hills"),
        clouds=pick("none", "few", "many"),
        body=("moon" if time == "night" else "sun") if has["body"] else "none",
        body_place=high[0] if has["body"] else "none",
        house=pick(*colours) if has["house"] else "none",
        house_size=pick("small", "big") if has["house"] else "none",
        house_place=places[0] if has["house"] else "none",
        tree=pick("pine", "oak", "palm") if has["tree"] else "none",
        tree_place=places[1] if has["tree"] else "none",
        boat=pick(*colours) if has["boat"] else "none",
        boat_place=places[2] if has["boat"] else "none",
        balloon=pick(*colours) if has["balloon"] else "none",
        balloon_place=high[1] if has["balloon"] else "none",
        seed=int(rng.integers(2**31)),
    )
