"""The loss of a choice: the cross-entropy among complete answers to a question, and the mean over the true answer's tokens.

Letters: P questions, A answers to each, E tokens of all answers, M = E + S targets of a packed batch,
S targets of the other records, R records.
"""

from typing import TypedDict

import torch
import torch.nn.functional as F


class Choices(TypedDict):
    """The questions of a packed batch whose loss is a choice. Each answer is a branch.

    A dictionary, so that utilities move it to a device with the batch.
    """

    targets: torch.Tensor  # LongTensor (E,): the targets of answers, indices in [0, M)
    answers: torch.Tensor  # LongTensor (E,): the answer that each of them belongs to, question * A + number
    truth: torch.Tensor  # LongTensor (P,): the number of the true answer, in [0, A)
    records: torch.Tensor  # LongTensor (P,): the record of the question, in [0, R)
    others: torch.Tensor  # LongTensor (S,): the targets of the other records, indices in [0, M)
    bias: tuple[
        float, ...
    ]  # (A,): is added to the log-probability of each answer; not a tensor, whose precision may be lowered


def choice_losses(losses: torch.Tensor, records: torch.Tensor, choices: Choices) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of a batch in which a choice counts as one target, (S + P,), and the record of each, (S + P,).

    The loss of a choice is ``-log softmax(log p + bias)`` at the true answer, plus the mean cross-entropy of that answer's
    tokens; ``log p`` is the sum over the tokens of an answer. The first term alone would leave the probability of all other
    texts open, and greedy decoding would lose the form of an answer. A bias of ``tau * log prior`` is the logit adjustment of
    Menon et al. 2021 (arXiv 2007.07314).

    Args:
        losses: fp32 (M,), the cross-entropy of each target.
        records: (M,), the record of each target.
    """
    questions, answers = len(choices["truth"]), len(choices["bias"])
    log_probs = losses.new_zeros(questions * answers).index_add(0, choices["answers"], -losses[choices["targets"]])
    scores = log_probs.view(questions, answers) + log_probs.new_tensor(choices["bias"])  # (P, A)
    chosen = F.cross_entropy(scores, choices["truth"], reduction="none")  # (P,)
    true = torch.arange(questions, device=losses.device) * answers + choices["truth"]  # (P,)
    lengths = torch.bincount(choices["answers"], minlength=questions * answers)[true]  # (P,)
    chosen = chosen - log_probs[true] / lengths
    others = choices["others"]
    return torch.cat([losses[others], chosen]), torch.cat([records[others], choices["records"]])
