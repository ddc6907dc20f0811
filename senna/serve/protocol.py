r"""The request and the response of ``POST /v1/meta_actions``.

A request is a JSON object::

    {
      "images": {"front": URL, "front left": URL, "front right": URL, "back left": URL, "back right": URL, "back": URL},
      "speed": 3.1,
      "command": "turn left"
    }

=============  =================================================================================================
images         View -> URL of its image, in any order; keys may also be camera names (``CAM_FRONT_LEFT``). Or a list of
               URLs, in the order of the ``<image>`` of the question (without ``question``: of ``senna.views.VIEWS``).
               A URL is ``data:image/jpeg;base64,...`` or one that the server may fetch (vLLM's
               ``--allowed-media-domains`` and ``--allowed-local-media-path``).
speed          The ego vehicle's speed, m/s.
command        The navigation command, one of ``senna.navigation.COMMANDS``.
question       Instead of ``speed`` and ``command``: the complete text of the question, with its view tags and ``<image>``
               (the first turn of a record). As many images as ``<image>``; none is allowed.
ending         Text after the meta-action in an answer of the training data (`senna.evaluate.score`). Default: ``"\n"``.
version        Prompt format, a key of ``senna.data.conversation.TEMPLATES``. Default: ``"v1"``.
model          A name that the server serves. Default: its model.
=============  =================================================================================================

The response has status 200::

    {
      "id": "meta-actions-6f1c...",
      "object": "meta_actions",
      "created": 1795871234,
      "model": "senna",
      "meta_actions": [
        {"meta_action": "KEEP, STRAIGHT", "log_prob": -0.41, "probability": 0.71},
        ...
      ],
      "best": "KEEP, STRAIGHT",
      "greedy": "KEEP, STRAIGHT",
      "left_tree": null,
      "usage": {"prompt_tokens": 863, "completion_tokens": 0, "total_tokens": 863}
    }

``meta_actions`` has twenty entries in the order of ``senna.meta_actions.ALL_META_ACTIONS``. ``log_prob``, ``best``, ``greedy``
and ``left_tree`` are those of `senna.evaluate.score.PlanScores`: ``log_prob`` is log P(answer and terminator | prompt), and
``probability`` is normalized over the twenty.

A request that cannot be answered gets the error of the OpenAI interface, ``{"error": {"message": ..., "type": ...,
"param": ..., "code": 400}}``: status 400 for a wrong body or a bad image (``param`` names the field or the view), 413 for a
body that is too large, 404 for an unknown model.
"""
