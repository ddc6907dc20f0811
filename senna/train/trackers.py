"""The trackers of ``--report_to``: their names, what each needs, and where it writes. Nothing is imported or started here."""

import difflib
import importlib.util
import netrc
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from senna.errors import UsageError


class Needs(NamedTuple):
    """The module that a tracker needs, and the command that installs it."""

    module: str
    install: str


_EXTRA = "pip install -c constraints.txt -e '.[trackers]'"
TRACKERS = {
    "tensorboard": Needs("tensorboard", "pip install -c constraints.txt -e ."),
    "wandb": Needs("wandb", _EXTRA),
    "trackio": Needs("trackio", _EXTRA),
    "swanlab": Needs("swanlab", "pip install swanlab"),
    "mlflow": Needs("mlflow", "pip install mlflow"),
}
"""The trackers that get images, Senna's names, and the same tracker run when a run continues. transformers knows others."""


def tracker_names(given: str | Sequence[str] | None) -> list[str]:
    """Return the trackers in ``wandb,tensorboard`` or in a list of names: ["none"], ["all"], or known names.

    Raises:
        UsageError: a name is unknown, or "none" or "all" is not the only one.
    """
    words = [given] if isinstance(given, str) else list(given or [])
    names = list(dict.fromkeys(name.strip() for word in words for name in str(word).split(",") if name.strip()))
    for name in names:
        if name in ("none", "all") and len(names) > 1:
            raise UsageError(f"--report_to {','.join(names)}: {name} excludes other trackers", remedy=f"omit {name}")
        if name not in (*TRACKERS, "none", "all") and name not in (others := _other_trackers()):
            similar = difflib.get_close_matches(name.lower(), [*TRACKERS, "none", "all", *others], n=1)
            known = f"use {', '.join(TRACKERS)} or none, or several with commas"
            remedy = f"did you mean {similar[0]}?" if similar else known
            raise UsageError(f"--report_to {name}: there is no such tracker", remedy=remedy)
    return names or ["none"]


def settle_trackers(args: Any) -> None:
    """Set ``report_to`` to a list of known names. Raises UsageError, see `tracker_names`."""
    args.report_to = tracker_names(args.report_to)


def _other_trackers() -> list[str]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    return sorted(set(INTEGRATION_TO_CALLBACK) - set(TRACKERS))


def missing_trackers(names: Sequence[str]) -> dict[str, str]:
    """Return the trackers whose package is not installed, with the command that installs it."""
    needs = {name: TRACKERS[name] for name in names if name in TRACKERS}
    return {name: need.install for name, need in needs.items() if importlib.util.find_spec(need.module) is None}


def wandb_mode() -> str:
    """Return the mode of wandb: that of WANDB_MODE, else "online" with an API key, and "offline" without one.

    wandb would ask for a key on the terminal, or fail, in the middle of a job.
    """
    return os.environ.get("WANDB_MODE") or ("online" if has_wandb_login() else "offline")


def has_wandb_login() -> bool:
    """Return whether the environment or a netrc file has an API key of wandb."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    return _netrc_has(urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc)


def _netrc_has(host: str) -> bool:
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in [Path(name).expanduser() for name in files if name]:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(path).authenticators(host):
                return True
    return False


def swanlab_mode() -> str:
    """Return the mode of swanlab: that of SWANLAB_MODE, else "online" with an API key, and "offline" without one."""
    if mode := os.environ.get("SWANLAB_MODE"):
        return mode
    secrets = Path(os.environ.get("SWANLAB_SAVE_DIR") or "~/.swanlab").expanduser() / ".netrc"
    return "online" if os.environ.get("SWANLAB_API_KEY") or secrets.is_file() else "offline"


def tracker_folder(name: str, output_dir: str) -> str:
    """Return the folder that a tracker writes to: the one that the user's variable names, else one in the output folder."""
    out = os.path.abspath(output_dir)
    if name == "wandb":
        return os.path.join(os.environ.get("WANDB_DIR") or out, "wandb")
    variable, folder = {"trackio": ("TRACKIO_DIR", "trackio"), "swanlab": ("SWANLAB_LOG_DIR", "swanlog")}[name]
    return os.environ.get(variable) or os.path.join(out, folder)


def mlflow_uri(output_dir: str) -> str:
    """Return MLFLOW_TRACKING_URI, else that of a folder in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or (Path(output_dir).absolute() / "mlruns").as_uri()


def tracker_lines(args: Any) -> list[str]:
    """Return a line for each tracker but TensorBoard: its mode, where it writes, and how to see or to upload that."""
    lines = []
    for name in args.report_to:
        if name == "wandb":
            mode, folder = wandb_mode(), tracker_folder(name, args.output_dir)
            upload = f"no login; upload with: wandb sync {shlex.quote(folder)}/offline-run-*"
            lines.append(f"wandb {mode}, in {folder}" + (f" ({upload})" if mode == "offline" else ""))
        elif name == "trackio":
            remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or args.trackio_space_id
            folder = tracker_folder(name, args.output_dir)
            show = f"trackio local, in {folder} (show with: TRACKIO_DIR={shlex.quote(folder)} trackio show)"
            lines.append("trackio on a server, as its variables ask" if remote else show)
        elif name == "swanlab":
            lines.append(f"swanlab {swanlab_mode()}, in {tracker_folder(name, args.output_dir)}")
        elif name == "mlflow":
            uri = mlflow_uri(args.output_dir)
            lines.append(f"mlflow to {uri.replace(urlsplit(uri).netloc, urlsplit(uri).netloc.rpartition('@')[2], 1)}")
    return lines
