"""Records of one image with a caption."""


def a_record(number: int, answer: str = "a white car") -> dict:
    question = "<image>\nDescribe."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", "image": f"{number}.jpg", "conversations": turns}


AWKWARD = [
    a_record(0, 'quotes " and \\ and ]},{[ inside'),
    a_record(1, "Zürich — 东京 🚗 \u2028 \x85"),
    a_record(2, ""),
    a_record(3, "long " * 300),
]
