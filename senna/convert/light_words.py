"""The traffic light that a Chinese or Japanese sentence names."""

import re

from senna.kinds import TRAFFIC_LIGHTS

_RED, _YELLOW, _GREEN, _NONE = TRAFFIC_LIGHTS
_COLOURS = {**dict.fromkeys("红紅赤", _RED), **dict.fromkeys("黄黃", _YELLOW), **dict.fromkeys("绿綠緑青", _GREEN)}
_COLOUR = f"[{''.join(_COLOURS)}]"
_LAMP = "(?:灯|燈|信号|信號|シグナル)"
_ANY_LIGHT = re.compile(
    "红绿灯|紅綠燈|红黄绿灯|紅黃綠燈|交通信号灯|交通信號燈|交通灯|交通燈|交通信号|信号灯|信號燈|信号機"
)
_COLOUR_WORD = f"(?P<colour>{_COLOUR})(?:色|い|(?={_LAMP})|(?=[^\\w]|です|だ|に|で|で|了|的|\\Z))"
_OTHER_LIGHTS = re.compile(
    f"(?:刹车|煞车|剎車|制动|尾|转向|轉向|路|车|車|ブレーキ|テール|ウィンカー|街)(?:灯|燈|ランプ|ライト)\\w{{0,4}}?{_COLOUR}色?"
    f"|{_COLOUR}(?:色|い)?(?:的|の)?(?:小?汽车|小?汽車|轿车|轎車|卡车|卡車|公交车|巴士|大巴|出租车|计程车|面包车|车辆|車輛|货车|车|車"
    "|自動車|トラック|バス|タクシー|树|樹|木|建筑|建築|建物|标志|標誌|標識|看板|衣服|外套|锥|錐|コーン|线|線|砖|墙|壁|屋)"
)
_SHOWN = (
    re.compile(f"{_LAMP}[^。，、；！？,.;!?]{{0,8}}?{_COLOUR_WORD}"),
    re.compile(f"(?P<colour>{_COLOUR})(?:色|い)?(?:的|の)?{_LAMP}"),
)
_ALONE = re.compile(
    f"\\W*(?:现在|現在|当前)?(?:它)?{_LAMP}?(?:是|为|為|显示|顯示|は|が)?(?P<colour>{_COLOUR})(?:色|い|信号|{_LAMP})*"
    "(?:です|だ|的|了)?\\W*"
)
_NAMED = re.compile(f"(?P<colour>{_COLOUR})(?=色|い|{_LAMP}|です|\\W|\\Z)")
_DENIED = re.compile(f"(?:不是|并非|並非|不为|非){_COLOUR}|{_COLOUR}(?:色|い|信号)?(?:では|じゃ|く)(?:ない|ありません)")
_NO_LIGHT = re.compile(
    f"\\A\\W*(?:无|無|没有|沒有|没|なし|無し|ない|ありません|いいえ)\\W*\\Z"
    f"|(?:没有|沒有|无|無|看不到|看不见|看不見|不存在|未见|未見|见不到|找不到)[^。，、；！？,.;!?]{{0,8}}?{_LAMP}"
    f"|{_LAMP}[^。、；！？,.;!?]{{0,6}}?(?:不可见|不可見|看不到|看不见|看不見|不存在|没有|沒有|見え(?:ない|ません)|ありません|存在し(?:ない|ません)"
    "|な(?:い|し)|写ってい(?:ない|ません))"
)


def light_word_of_characters(text: str) -> str | None:
    """Return the word of ``TRAFFIC_LIGHTS`` that a Chinese or Japanese sentence means; None for none of them or several."""
    text = _OTHER_LIGHTS.sub(" ", _ANY_LIGHT.sub("信号", text))
    if _DENIED.search(text):
        return None
    alone = _ALONE.fullmatch(text)
    found = [alone] if alone else [match for pattern in _SHOWN for match in pattern.finditer(text)]
    shown = {_COLOURS[match["colour"]] for match in found}
    named = {_COLOURS[match["colour"]] for match in _NAMED.finditer(text)}
    if _NO_LIGHT.search(text):
        shown.add(_NONE)
    return next(iter(shown)) if len(shown) == 1 and named <= shown else None
