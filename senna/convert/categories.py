"""The categories of nuScenes: the word that questions use for each category, and its group of road users."""

from typing import NamedTuple


class Category(NamedTuple):
    """A category of nuScenes."""

    name: str  # the word that questions use
    group: str  # "vehicle", "cyclist", "pedestrian" or "static"


_CATEGORIES = {
    "animal": Category("animal", "pedestrian"),  # moves like a pedestrian; `is_vulnerable` excludes it
    "human.pedestrian.adult": Category("pedestrian", "pedestrian"),
    "human.pedestrian.child": Category("child", "pedestrian"),
    "human.pedestrian.construction_worker": Category("construction worker", "pedestrian"),
    "human.pedestrian.personal_mobility": Category("scooter rider", "pedestrian"),
    "human.pedestrian.police_officer": Category("police officer", "pedestrian"),
    "human.pedestrian.stroller": Category("stroller", "pedestrian"),
    "human.pedestrian.wheelchair": Category("wheelchair user", "pedestrian"),
    "movable_object.barrier": Category("barrier", "static"),  # "movable" here means by a person
    "movable_object.debris": Category("debris", "static"),
    "movable_object.pushable_pullable": Category("pushed object", "static"),
    "movable_object.trafficcone": Category("traffic cone", "static"),
    "static_object.bicycle_rack": Category("bicycle rack", "static"),
    "vehicle.bicycle": Category("bicycle", "cyclist"),
    "vehicle.bus.bendy": Category("bus", "vehicle"),
    "vehicle.bus.rigid": Category("bus", "vehicle"),
    "vehicle.car": Category("car", "vehicle"),
    "vehicle.construction": Category("construction vehicle", "vehicle"),
    "vehicle.emergency.ambulance": Category("ambulance", "vehicle"),
    "vehicle.emergency.police": Category("police car", "vehicle"),
    "vehicle.motorcycle": Category("motorcycle", "cyclist"),
    "vehicle.trailer": Category("trailer", "vehicle"),
    "vehicle.truck": Category("truck", "vehicle"),
}


def category_of(name: str) -> Category:
    """Return the category of a nuScenes name ("vehicle.bus.rigid"). The first word of an unknown name gives the group."""
    if name in _CATEGORIES:
        return _CATEGORIES[name]
    root, _, rest = name.partition(".")
    group = {"vehicle": "vehicle", "human": "pedestrian"}.get(root, "static")
    return Category((rest or root).rpartition(".")[2].replace("_", " "), group)


def is_vulnerable(category: str, group: str) -> bool:
    """Return whether an object is a vulnerable road user: a pedestrian or a cyclist, but not an animal."""
    return group in ("pedestrian", "cyclist") and category != "animal"
