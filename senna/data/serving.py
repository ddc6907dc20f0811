"""The placeholder for images and the chat template, which a server reads from a model folder beside the weights.

`senna serve` needs neither, since it encodes prompts itself. A folder that has both can be given to other tools.
"""

from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

from senna.data.conversation import ChatTemplate, template_for
from senna.views import IMAGE_TOKEN, VIEWS

_MESSAGES = """{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ 'USER: ' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- set images = message['content'] | selectattr('type', 'in', ['image', 'image_url']) | list %}
{%- if images | length == views | length %}{% for view in views %}{{ '<' + view + ' VIEW>:\\n' + image + '\\n' }}{% endfor %}
{%- else %}{% for _ in images %}{{ image + '\\n' }}{% endfor %}{% endif %}
{%- for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}
{%- endif %}{{ ' ' }}
{%- elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}
{%- else %}{{ raise_exception('the roles are user and assistant; the system text is part of the format') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


def add_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add ``<image>`` as a special token, in place. Its id is the first one behind the vocabulary; the model never sees it."""
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    return tokenizer


def prepare_for_serving(tokenizer: Any, version: str = "v1") -> None:
    """Give a tokenizer ``<image>`` and the chat template of a prompt format, in place."""
    add_image_token(tokenizer)
    tokenizer.chat_template = chat_template(version)


def chat_template(version: str = "v1") -> str:
    """Return a prompt format as a Jinja template for the messages of OpenAI's chat interface.

    Images stand before the text of their message: six with the tags of ``VIEWS``, another number without. The BOS is not
    part of it, since the tokenizer adds one to every text.
    """
    template = template_for(version)
    assert isinstance(template, ChatTemplate), "the format plain has no turns"
    values = {"image": IMAGE_TOKEN, "views": [view.upper() for view in VIEWS]}
    settings = "".join(f"{{%- set {name} = {value!r} %}}" for name, value in values.items())
    return f"{settings}{{{{ {template.system + ' '!r} }}}}{_MESSAGES}"
