"""`senna evaluate --server`: predictions of a model behind an HTTP server, stored like those of a model on this machine.

A server of `senna serve` scores the twenty meta-actions by ``POST /v1/meta_actions`` (`senna.serve.protocol`). Any other
server with OpenAI's chat interface answers with text.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from senna.data.conversation import template_for
from senna.decision import BALANCED, Calibration, Decision, open_decision, parse_calibration
from senna.errors import DataError, SennaError, UsageError
from senna.evaluate.decisions import Rules, separate_rules
from senna.evaluate.predict import Fields, SkipBudget, find_answer_ending, split_trajectories
from senna.evaluate.predictions import BLACKOUT, Store
from senna.evaluate.server_questions import Question, QuestionReader
from senna.evaluate.shared_frames import FrameSet
from senna.kinds import PLAN
from senna.meta_actions import ALL_META_ACTIONS
from senna.record_checks import replace_surrogates
from senna.record_file import RecordFile
from senna.run_folder import fingerprint
from senna.servers.address import RetryPolicy, parse_server
from senna.servers.connection import Connection, Refusal
from senna.servers.replies import NoAnswer
from senna.templates import server_instruction

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SCORES = "/meta_actions"
"""The path that scores meta-actions, below ``/v1``."""

_IDENTITY = ("root", "fingerprint")  # entries of /v1/models that tell a model from another one of the same name


@dataclass(frozen=True)
class ServedModel:
    """A model of a server.

    Attributes:
        name: the server's name for it.
        identity: what else the server says of it.
        scores: whether the server scores meta-actions, as that of a Senna does.
        instruction: a text before the questions to any other model.
        calibration: what `senna calibrate` has fitted for the model; None without it.
    """

    connection: Connection
    name: str
    identity: dict[str, Any]
    scores: bool
    instruction: str
    calibration: Calibration | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine its predictions, for run.json: not the address, since the server may move."""
        prompts = fingerprint(self.instruction.encode()) if self.instruction else None
        return {"model": self.name, "model_files": self.identity, "prompts": prompts}

    def settle(self, args: Any) -> Any:
        """Return the flags of `senna evaluate` with this model and its mode.

        Raises:
            UsageError: the server cannot do what the flags ask for.
        """
        if args.mode == "score" and not self.scores:
            raise UsageError(
                f"--mode score: --server {self.connection.server} does not score meta-actions (it has no {SCORES})",
                remedy="use --mode generate, or a server of `senna serve`",
            )
        mode = args.mode or ("score" if self.scores else "generate")
        if mode == "score":
            template_for(args.version)
        elif args.version != type(args).version:
            raise UsageError(
                f"--version {args.version} needs --mode score", remedy="set it in the server's chat template"
            )
        elif args.mode is None:
            self.connection.report_once(
                "it does not score meta-actions, so that its texts are evaluated (--mode generate)"
            )
        return replace(args, model=self.name, mode=mode, dtype="")

    def decision(self, name: str) -> Decision:
        """Return a decision rule for this model. Raises UsageError for an unknown name, or without a calibration."""
        if name != BALANCED:
            return open_decision(name)
        if self.calibration is None:
            raise UsageError(
                f"--decision {BALANCED}: --server {self.connection.server} has no calibration of {self.name}",
                remedy="run `senna calibrate` on the model's folder, and start `senna serve` again",
            )
        return Decision(BALANCED, self.calibration)

    def rules(self, decision: str, evaluated: FrameSet) -> Rules:
        """Return the decision rules of an evaluation, see `senna.evaluate.decisions.separate_rules`. Raises UsageError."""
        self.decision(decision)
        return separate_rules(decision, self.calibration, evaluated)

    async def score(
        self, client: "AsyncOpenAI", question: str, images: Sequence[str], ending: str = "\n", version: str = "v1",
        about: str = "",
    ) -> Fields:  # fmt: skip
        """Return the scored fields of a prediction.

        Args:
            question: with its view tags and ``<image>``.
            images: a data URL for each ``<image>``.
            ending, version: see `senna.evaluate.score.PlanScorer`.
            about: what the request is about, for errors.

        Raises:
            DataError: the server refuses the question.
            SennaError: the server fails permanently, or in all attempts.
        """
        body = {"model": self.name, "images": images, "question": question, "ending": ending, "version": version}
        reply = await self.connection.send(client.post(SCORES, cast_to=object, body=body), about)
        if isinstance(reply, Refusal):
            raise DataError(f"the server refused it: {reply.reason}")
        try:
            return _scored_fields(reply)
        except (KeyError, TypeError, ValueError) as error:
            raise SennaError(
                f"--server {self.connection.server}: a reply without the scores of the twenty meta-actions ({error!r})",
                remedy="use the same version of senna for the server",
            ) from None

    def predict(
        self, args: Any, records: RecordFile, indices: Sequence[int], stores: Sequence[Store], rules: Rules
    ) -> None:
        """Ask the server for the predictions that the stores lack, and append them as they arrive.

        Args:
            args: the flags of `senna evaluate`, from `settle`.
            rules: decide the plans that questions about trajectories state.

        Raises:
            DataError: more records than ``args.skip_bad_samples`` cannot be used, or are refused by the server.
            SennaError: the server fails permanently, or in all attempts; the answers so far are stored.
        """
        plans = [index for index in indices if records.kind_names[records.kinds[index]] == PLAN]
        scored = frozenset(plans if args.mode == "score" else ())
        ending, budget = find_answer_ending(records, plans), SkipBudget(args.skip_bad_samples)
        for store in stores:
            is_black = store.path.stem == BLACKOUT
            black = None if not is_black else "square" if self.scores else "image"
            missing = [index for (index,) in store.missing([[index] for index in indices])]
            description = "black images" if is_black else "predictions"
            with tqdm(total=len(indices), initial=len(indices) - len(missing), desc=description, unit="record") as bar:
                for part in split_trajectories(records, missing):
                    reader = QuestionReader(records, args.image_folder, black, rules.plans(store))
                    asker = _Asker(self, reader, scored, ending, args.version)
                    for answers in self.connection.stream(part, asker.ask):
                        _append(store, [prediction for _, prediction in answers], budget)
                        bar.update(len(answers))


def connect(args: Any, retry: RetryPolicy | None = None) -> ServedModel:
    """Ask the server of the flags for its models and for what it can do.

    Raises:
        UsageError: the address is not valid, or the server has no model of the given name.
        SennaError: the server does not answer.
    """
    connection = Connection(
        parse_server(args.server), args.concurrency, args.max_new_tokens, retry, "--max-new-tokens", "--server"
    )
    instruction = server_instruction(args.prompts)
    name, entry = _choose(connection, args.served_model)
    identity = {key: entry[key] for key in _IDENTITY if entry.get(key)}
    if not connection.has_route(SCORES):
        return ServedModel(connection, name, identity, False, instruction)
    return ServedModel(connection, name, identity, True, "", _calibration(connection))


def _calibration(connection: Connection) -> Calibration | None:
    """Return the calibration of a Senna's server; None without it, or from an earlier version. Raises SennaError."""
    found = connection.get(SCORES)
    if not isinstance(found, dict) or found.get("calibration") is None:
        return None
    try:
        return parse_calibration(found["calibration"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SennaError(
            f"--server {connection.server}: its calibration cannot be used ({error})",
            remedy="use the same version of senna for the server",
        ) from None


def _choose(connection: Connection, wanted: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name of the wanted or only model of a server, and what the server says of it. Raises UsageError."""
    try:
        models = {str(model["id"]): model for model in connection.models()}
    except SennaError:
        if wanted and _answers(connection, wanted):
            return wanted, {}
        raise
    if wanted is None and len(models) == 1:
        return next(iter(models.items()))
    if wanted in models:
        return wanted, models[wanted]
    if wanted and _answers(connection, wanted):
        return wanted, {}
    found = f"has no model {wanted!r}" if wanted else f"serves {len(models)} models"
    raise UsageError(
        f"--server {connection.server} {found}", remedy=f"give --served-model, one of: {', '.join(models)}"
    )


def _answers(connection: Connection, model: str) -> bool:
    """Return whether a server answers for a model that it does not list: some list none, or other names than they accept."""
    try:
        text = connection.call(lambda client: connection.chat(client, model, [{"type": "text", "text": "Hello"}]))
    except SennaError:
        return False
    return not (isinstance(text, NoAnswer) and text.is_refused)


def _append(store: Store, predictions: Sequence[Fields], budget: SkipBudget) -> None:
    """Append predictions to a store up to the one, if any, that exceeds the budget; then raise its error."""
    accepted = []
    try:
        for prediction in predictions:
            if "error" in prediction:
                budget.skip(prediction["error"])
            accepted.append(prediction)
    finally:
        store.append(0, accepted)


@dataclass(frozen=True)
class _Asker:
    """Asks a served model about records.

    Attributes:
        scored: the records whose meta-actions are scored; the others are answered with text.
        ending, version: see `senna.evaluate.score.PlanScorer`.
    """

    served: ServedModel
    reader: QuestionReader
    scored: frozenset[int]
    ending: str
    version: str

    async def ask(self, client: "AsyncOpenAI", index: int) -> Fields:
        """Return a prediction. Raises SennaError if the server fails permanently, or in all attempts."""
        try:
            question = await asyncio.to_thread(self.reader.read, index)
            answer = self._score if index in self.scored else self._chat
            return {**question.facts, **await answer(client, question, self.reader.records.name(index))}
        except DataError as error:
            return {"index": index, "error": replace_surrogates(str(error))}

    async def _score(self, client: "AsyncOpenAI", question: Question, name: str) -> Fields:
        about = f" about {name}"
        try:
            return await self.served.score(client, question.text, question.urls, self.ending, self.version, about)
        except DataError as error:
            raise DataError(f"{name}: {error.message}") from None

    async def _chat(self, client: "AsyncOpenAI", question: Question, name: str) -> Fields:
        served = self.served
        content = question.senna_content() if served.scores else question.content(served.instruction)
        text = await served.connection.chat(client, served.name, content, f" about {name}")
        if isinstance(text, NoAnswer) and text.is_refused:
            raise DataError(f"{name}: the server refused it: {text.reason}")
        return {"text": replace_surrogates(text)}


def _scored_fields(reply: Any) -> Fields:
    """Return the scored fields of a prediction. Raises KeyError, TypeError or ValueError if the reply lacks one."""
    entries, names = reply["meta_actions"], [str(action) for action in ALL_META_ACTIONS]
    if [entry["meta_action"] for entry in entries] != names:
        raise ValueError("other meta-actions")
    log_probs = [float(entry["log_prob"]) for entry in entries]
    left_tree = reply["left_tree"]
    if not all(map(math.isfinite, log_probs)) or reply["greedy"] not in names or not isinstance(left_tree, str | None):
        raise ValueError("a value that is not valid")
    best = names[max(range(len(names)), key=log_probs.__getitem__)]
    left_tree = left_tree and replace_surrogates(left_tree)
    return {"log_probs": log_probs, "sum": best, "greedy": reply["greedy"], "left_tree": left_tree}
