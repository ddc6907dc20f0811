"""Records of key frames with six camera images."""

from senna.views import VIEWS, image_block


def paths(token, folder="samples"):
    names = [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
    return [f"{folder}/{name}/{token}__{name}.jpg" for name in names]


def record(token, kind="plan", answer="KEEP, STRAIGHT\n", scene="s", views=VIEWS, **more):
    images = paths(token)
    turns = [{"from": "human", "value": image_block(views) + kind}, {"from": "gpt", "value": answer}]
    about = {"token": token, "scene_token": scene, "image": images[0], "images": images[::-1], "prev": ""}
    return {**about, "id": f"{token}-{kind}", "kind": kind, "conversations": turns, **more}
