"""`senna download`: download models and data sets, and print the shell lines that set the variables of the scripts."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.download.assets import PRESETS, Asset, assets_of
from senna.download.shell import ShellOutput, exports, shell_output
from senna.errors import SennaError, UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.download.endpoint import Endpoint
    from senna.download.jobs import Job

_MAX_KEPT_SIZE = 10_000_000  # bytes; a modified file up to this size may be edited by hand, so it is kept as FILE.old


@dataclass
class DownloadArguments:
    """Flags of `senna download`."""

    preset: list[str] | None = flag(f"one or more of {', '.join(PRESETS)} (default: 7b)", None)
    out: str = flag("output folder, with a subfolder for each asset", "outputs/assets")
    endpoint: str | None = flag("address of the hub or of a mirror (default: HF_ENDPOINT, else the hub)", None)
    send_token: bool = flag(
        "send your token (HF_TOKEN) to --endpoint even if it is no https address of huggingface.co or hf.co", False
    )
    list: bool = flag("list the presets with sizes and licences, and download nothing", False)
    update: bool = flag(
        "use the newest commit of assets without a pinned commit, instead of the first downloaded", False
    )


def main(argv: list[str]) -> int:
    """Run `senna download` and return the exit code."""
    with shell_output() as output:
        return _run(argv, output)


def _run(argv: list[str], output: ShellOutput) -> int:
    args = parse_flags(
        DownloadArguments,
        argv,
        "senna download",
        "Download models and data sets. Presets: 7b: Vicuna and CLIP, from which stage 1 starts; pretrain-data: the images and "
        "captions of stage 1; senna: the published weights; captioner: LLaVA-1.6-34B; all. Only the required files are "
        "downloaded, at a fixed commit, and verified by their hashes; those of the first download are kept in "
        "OUT/NAME.lock.json, and later downloads are compared with them. After an interruption, the same command continues. "
        "It prints the shell lines that the scripts need; they clear the variables where the download fails: "
        'exports=$(senna download --preset 7b) && eval "$exports" && sh train_tools/pretrain_senna_llava.sh',
        "Set HF_TOKEN for repositories that require an account (it is sent only to https addresses of huggingface.co and "
        "hf.co, unless --send-token is given), and HTTPS_PROXY behind a proxy. nuScenes cannot be "
        "downloaded automatically: register at https://www.nuscenes.org/nuscenes, download 'Full dataset (v1.0)' or mini, and "
        "'CAN bus expansion', unpack both into one folder, and pass it to data_tools/senna_nusc_converter.sh as NUSCENES.",
    )
    assets = assets_of(args.preset or ["7b"])
    if args.list:
        print(listing())
        return 0
    output.clear(assets)
    if args.update and all(asset.revision for asset in assets):
        raise UsageError(
            "--update: all chosen assets have a pinned commit",
            remedy="leave it out; only --preset senna has no pinned commit",
        )
    # huggingface_hub reads this on import; without it, telemetry goes to the hub even if --endpoint names a mirror.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants

    from senna.download.endpoint import parse_endpoint

    endpoint = parse_endpoint(args.endpoint or constants.ENDPOINT, args.send_token)
    out = Path(args.out)
    _download(assets, out, endpoint, args.update)
    output.write(exports(assets, out.resolve()))
    return 0


def listing() -> str:
    """Return a text that lists all presets and their assets."""
    lines = []
    for preset, assets in PRESETS.items():
        if preset == "all":
            continue
        lines.append(f"--preset {preset}")
        for asset in assets:
            commit = f"commit {asset.revision}" if asset.revision else "commit: that of main at the first download"
            lines += [
                f"  {asset.repo}{' (data set)' if asset.kind == 'dataset' else ''}   about {asset.gigabytes:.1f} GB"
                + (f", {2 * asset.gigabytes:.0f} GB while it is unpacked" if asset.archives else ""),
                f"    {asset.purpose}",
                f"    {commit}",
                f"    licence: {asset.licence}",
            ]
    total = sum(asset.gigabytes for asset in PRESETS["all"])
    return "\n".join([*lines, f"--preset all   about {total:.0f} GB"])


def _download(assets: Sequence[Asset], out: Path, endpoint: "Endpoint", update: bool) -> None:
    """Download and unpack the assets.

    Raises:
        UsageError: a check failed before anything was downloaded.
        SennaError: the download or the unpacking failed.
    """
    from senna.download.jobs import make_job

    def checking(file) -> Callable[[int], None]:
        _log(f"{file.name} exists already; reading it ({_size(file.size)}) to verify its hash")
        return lambda count: None

    jobs = [make_job(asset, out, endpoint, update, checking) for asset in assets]
    for job in jobs:
        _log_job(job, endpoint)
    _check_space(jobs, out)
    if endpoint.withholds_token and any(job.files for job in jobs):
        _log(f"your token is not sent to {endpoint.address}; --send-token sends it")
    total = sum(file.size for job in jobs for file in job.missing)
    if total:
        with _progress_bar("downloading", total, sum(job.resumed_size for job in jobs)) as bar:
            for job in jobs:
                _fetch(job, endpoint, bar.update)
    for job in jobs:
        with suppress(SennaError):  # a complete folder may be read-only
            digests = {name: file.digest for name, file in job.files.items()}
            job.lock.record(job.revision, digests or job.store.wanted)
        _unpack(job)


def _log_job(job: "Job", endpoint: "Endpoint") -> None:
    title = f"{job.asset.repo} at {job.revision}  ->  {job.store.folder}"
    if not job.files:
        _log(f"{title}\n    complete")
        return
    rest = f"; {_size(job.download_size)} to download" if job.missing else ", all downloaded"
    folders = ", ".join(folder.name for _, folder in job.archives)
    unpacking = f", then to be unpacked into {folders}/" if folders else ""
    _log(f"{title}\n    {len(job.files)} files, {_size(job.total_size)}{rest}{unpacking}")
    if job.unknown:
        _log(
            f"    {len(job.unknown)} of {len(job.files)} files are verified only by hashes that {endpoint.address} states "
            f"itself: neither this package nor {job.lock.path.name} knows them ({', '.join(job.unknown)})"
        )
    if job.asset.revision is None:
        _log("    later runs keep this commit unless --update is given")


def _check_space(jobs: "Sequence[Job]", out: Path) -> None:
    from senna.files import free_space

    required, free = sum(job.required_space for job in jobs), free_space(out)
    if required:
        _log(f"{_size(required)} of disk space required, {_size(free)} free")
    if required > free:
        raise UsageError(
            f"--out {out}: {_size(required)} of disk space required in addition to the files there, {_size(free)} free",
            remedy="make room, or choose --out DIR on another disk",
        )


def _fetch(job: "Job", endpoint: "Endpoint", advance: Callable[[int], object]) -> None:
    """Download the missing files of a job, and write the digests of all files to its lock file."""
    from senna.download.fetch import PartialFile, fetch
    from senna.download.hub import explain, open_file

    if not job.files:
        return
    with job.store.lock():
        job.store.begin(job.revision, job.files)
        present = [file for file in job.files.values() if file not in job.missing]
        job.lock.record(job.revision, {file.name: file.digest for file in present})
        for file in job.missing:
            target = job.store.folder / file.name
            partial = PartialFile.path_of(target, file)
            if partial.is_file() and partial.stat().st_size:
                _log(f"{file.name}: continuing after {_size(partial.stat().st_size)} of {_size(file.size)}")
            if target.is_file() and target.stat().st_size <= _MAX_KEPT_SIZE and not job.store.is_unmodified(file.name):
                target.replace(target.with_name(f"{file.name}.old"))
                _log(f"{target} was modified or damaged; kept as {file.name}.old")
            fetch(
                file,
                target,
                lambda start, file=file: open_file(job.asset, file, job.revision, endpoint, start),
                advance,
                _log,
                lambda error: explain(error, job.asset, endpoint),
            )
            job.store.mark_checked(file)
            job.lock.record(job.revision, {file.name: file.digest})


def _unpack(job: "Job") -> None:
    """Unpack the archives of a job and delete them."""
    from senna.download.unpack import unpack

    if not job.archives:
        return
    with job.store.lock():
        for archive, folder in job.archives:
            path = job.store.folder / archive.name
            with _progress_bar(f"unpacking into {folder.name}/", 0, 0) as bar:

                def begin(total: int, bar=bar) -> Callable[[int], object]:
                    bar.reset(total)
                    return bar.update

                count = unpack(path, folder, begin)
            job.store.mark_unpacked(folder.name, archive.digest)
            path.unlink()
            _log(f"{folder}: {count} files; {archive.name} was deleted")


def _progress_bar(text: str, total: int, initial: int):
    from tqdm import tqdm

    interval = 0.3 if sys.stderr.isatty() else 30.0  # seconds; longer where every update is a line of a log file
    return tqdm(
        desc=text, total=total, initial=initial, unit="B", unit_scale=True, dynamic_ncols=True, mininterval=interval
    )


def _log(text: str) -> None:
    """Print to standard error, above the progress bar; standard output is read by the scripts."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _size(count: int) -> str:
    """Return a number of bytes as text, for example "1.5 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
