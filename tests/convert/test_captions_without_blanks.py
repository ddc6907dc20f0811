"""Chinese and Japanese captions: length by characters, ends of sentences, loops, refusals and traffic lights."""

import pytest

from senna.convert.caption_checks import check, clean
from senna.convert.quality import record_problems
from tests.convert.test_quality import make_record

CHINESE = "这是一个阴天。前方十二米处有一辆卡车正在行驶，右侧停着两辆汽车，一名男子在路边等待。"
JAPANESE = "曇りの日です。前方にトラックが走っており、右側に車が二台停まっています。"


@pytest.mark.parametrize(
    "text", [CHINESE, JAPANESE, "路牌上写着「慢行。」", "前方有一辆红色的汽车！", f"答：{CHINESE}", "道路湿滑｡"]
)
def test_a_good_caption_passes(text):
    for kind in ("description", "explanation"):
        assert check(kind, clean(kind, text)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("路。", "too short"),
        ("前方有一辆白色的卡车，" * 3 + "路上很湿", "cut off"),
        ("".join(chr(0x4E00 + number) for number in range(300)) + "。", "too long"),
        ("左边停着一辆白色汽车。" * 3, "repeats itself"),
        ("前方有一辆卡车，" * 5 + "路面湿滑。", "repeats itself"),
        ("对不起，我无法看到这张图片。", "refuses"),
        ("申し訳ありませんが、画像を見ることができません。", "refuses"),
    ],
)
def test_problems_of_a_caption_are_named(text, problem):
    assert problem in check("description", clean("description", text))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("红", "Red"), ("红色", "Red"), ("红灯。", "Red"), ("红绿灯是绿色的。", "Green"), ("交通信号灯显示黄色。", "Yellow"),
        ("前方的交通灯是红色，车辆应停下。", "Red"), ("綠燈", "Green"), ("目前是红灯。", "Red"), ("没有红绿灯。", "None"),
        ("图中看不到交通信号灯。", "None"), ("无", "None"), ("没有", "None"), ("赤", "Red"), ("赤信号です。", "Red"),
        ("信号は青です。", "Green"), ("信号機は黄色です。", "Yellow"), ("青信号", "Green"), ("信号機はありません。", "None"),
        ("信号は見えません。", "None"), ("信号灯是绿色，前方有一辆红色的汽车。", "Green"), ("なし", "None"),
        ("信号は赤で、車は止まるべきです。", "Red"),
    ],
)  # fmt: skip
def test_a_sentence_about_a_traffic_light_becomes_its_word(answer, word):
    assert clean("traffic_light", answer) == word


@pytest.mark.parametrize(
    "answer",
    [
        "前方有一辆红色的汽车。", "刹车灯是红色。", "信号灯不是红色。", "左边是红灯，右边是绿灯。", "我不确定。",
        "信号は赤ではありません。", "没有交通灯，但灯是红色。", "红绿灯", "黄昏时分。",
    ],
)  # fmt: skip
def test_an_ambiguous_answer_about_a_traffic_light_is_a_problem(answer):
    assert check("traffic_light", clean("traffic_light", answer)) == ["no traffic light word"]


def test_a_long_answer_is_flagged_by_its_characters():
    assert [problem.split(":")[0] for problem in record_problems(make_record("description", "路很长" * 200))] == [
        "long answer"
    ]
    assert record_problems(make_record("description", CHINESE)) == []
