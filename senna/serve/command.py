"""`senna serve`: check the environment and the model, then become `vllm serve` with the plug-in and the right flags."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from senna.errors import UsageError
from senna.serve.environment import check_environment, find_vllm
from senna.serve.folder import check_model
from senna.views import VIEWS

HELP = """usage: senna serve MODEL [any flag of `vllm serve`]

Serve a model folder with vLLM: OpenAI's interface at /v1/chat/completions, and the probabilities of the twenty meta-actions at
/v1/meta_actions. senna/serve/README.md has examples of both.

  MODEL    a model folder or a hub name; merge a LoRA folder first (senna merge)

  --decision RULE  how /v1/meta_actions decides: likeliest, the most probable meta-action (default); balanced, corrected for the
                   frequencies of the training plans (needs `senna calibrate`); or greedy, token by token

Flags that are set unless you give them:
  --host 127.0.0.1          only this machine can connect; 0.0.0.0 admits everyone who can reach it
  --served-model-name NAME  the name of the folder
  --limit-mm-per-prompt     six images
  --mm-processor-cache-gb 1 memory for pixels of earlier requests, instead of vLLM's 4 GB
  --generation-config vllm  greedy decoding, unless a request asks for something else
  --enforce-eager           without a GPU only: no compilation; --no-enforce-eager compiles
  --kv-cache-memory-bytes 4G
                            without a GPU only: the prefix cache; vLLM would take 92 % of the machine's memory
  --block-size 32           without a GPU only: shorter blocks of the prefix cache, for /v1/meta_actions

Without a GPU, the environment variable ONEDNN_PRIMITIVE_CACHE_CAPACITY is 256 unless you set it, which limits the memory of
compiled kernels.

`vllm serve --help=all` explains all of vLLM's flags.
"""

CPU_VARIABLES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}
"""Variables that are set without a GPU unless they are set already. oneDNN compiles kernels for each number of tokens in a
batch, and keeps 1024 of them by default: 300 MB that fill up over hundreds of requests."""


def main(argv: list[str]) -> int:
    """Run `senna serve`. It does not return: the process becomes that of vLLM. Raises UsageError."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if argv else 2
    from senna.serve.decision import decision_variables, take_decision

    model = argv[0]
    if model.startswith("-"):
        raise UsageError(f"{model} is not a model", remedy="give the model first: senna serve MODEL [flags]")
    decision, flags = take_decision(argv[1:])
    vllm = find_vllm()
    check_environment(vllm)
    check_model(model, vllm)
    variables = add_variables(os.environ, vllm.is_cpu) | decision_variables(decision, model)
    # The command `vllm` reads the metadata of a package "vllm", which the CPU build does not have; its module does not.
    start = ["vllm.entrypoints.openai.api_server", "--model"] if vllm.is_cpu else ["vllm.entrypoints.cli.main", "serve"]
    command = [sys.executable, "-m", *start, model, *add_flags(model, flags, vllm.is_cpu)]
    sys.stdout.flush()
    os.execve(sys.executable, command, variables)


def add_flags(model: str, flags: Sequence[str], is_cpu: bool) -> list[str]:
    """Return the flags for `vllm serve`: the given ones, and ours where they do not say otherwise."""
    given = {flag.partition("=")[0].replace("_", "-") for flag in flags if flag.startswith("--")}
    ours = {
        "--host": "127.0.0.1",
        "--served-model-name": Path(model.rstrip("/")).resolve().name if Path(model).exists() else model,
        "--limit-mm-per-prompt": json.dumps({"image": len(VIEWS)}),
        "--mm-processor-cache-gb": "1",  # 500 frames of six images, 336 pixels wide
        "--generation-config": "vllm",
        "--override-generation-config": json.dumps({"temperature": 0.0}),
    }
    if is_cpu:
        ours |= {"--enforce-eager": "", "--block-size": "32"}
        if "--gpu-memory-utilization" not in given:
            ours |= {"--kv-cache-memory-bytes": "4G"}
    added: list[str] = []
    for flag, value in ours.items():
        if not given & {flag, f"--no-{flag[2:]}"}:
            added += [flag, value] if value else [flag]
    return [*added, *flags]


def add_variables(environment: Mapping[str, str], is_cpu: bool) -> dict[str, str]:
    """Return the environment for `vllm serve`: with the plug-in in ``VLLM_PLUGINS``, without which vLLM would not load the
    route, and without a GPU with a limit for oneDNN's cache."""
    named = [name for name in environment.get("VLLM_PLUGINS", "").split(",") if name]
    added = {"VLLM_PLUGINS": ",".join(dict.fromkeys([*named, "senna"]))}
    return {**(CPU_VARIABLES if is_cpu else {}), **environment, **added}
