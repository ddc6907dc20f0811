"""`senna download`: models and data from the hub, and the lines that tell the scripts where they are."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.download.assets import PRESETS, Asset, assets_of
from senna.errors import UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.download.plan import Job

_SMALL = 10_000_000  # bytes: what somebody may have written by hand


@dataclass
class DownloadArguments:
    """Flags of `senna download`."""

    preset: list[str] | None = flag(f"what for, one or more of {', '.join(PRESETS)} (default: 7b)", None)
    out: str = flag("the folder of the assets' folders", "outputs/assets")
    endpoint: str | None = flag("the hub or a mirror of it (default: HF_ENDPOINT, else the hub itself)", None)
    list: bool = flag("show what there is, with sizes and licences, and fetch nothing", False)
    update: bool = flag("where no commit is pinned, take the newest instead of the one that was taken first", False)


def main(argv: list[str]) -> int:
    """Entry point of `senna download`. Returns the exit code."""
    args = parse_flags(
        DownloadArguments,
        argv,
        "senna download",
        "Fetch models and data: 7b: Vicuna and CLIP, which stage 1 starts from; pretrain-data: its pictures and captions; "
        "senna: the published weights; captioner: LLaVA-1.6-34B; all. Only the files needed, at a fixed commit, each checked "
        "by its hash; cut off or stopped, the same command goes on where it was. It ends with the lines that the scripts "
        'need: eval "$(senna download --preset 7b)".',
        "HF_TOKEN is used where a repository asks for an account, HTTPS_PROXY where a proxy is needed. nuScenes cannot be "
        "fetched for you: register at https://www.nuscenes.org/nuscenes, take 'Full dataset (v1.0)' or mini, and 'CAN bus "
        "expansion', unpack both into one folder, and give it to data_tools/senna_nusc_converter.sh as NUSCENES.",
    )
    assets = assets_of(args.preset or ["7b"])
    if args.list:
        print(listing())
        return 0
    if args.update and all(asset.revision for asset in assets):
        raise UsageError(
            "--update: every asset chosen has a commit of its own; only that of --preset senna is not pinned"
        )
    # The library reads this when it is imported; else it asks the hub also where --endpoint names a mirror.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants

    endpoint = (args.endpoint or constants.ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"--endpoint {endpoint}: an address that begins with https://")
    out = Path(args.out)
    _bring(assets, out, endpoint, args.update)
    print(exports(assets, out.resolve()))
    return 0


def listing() -> str:
    """A text of what there is."""
    lines = []
    for preset, assets in PRESETS.items():
        if preset == "all":
            continue
        lines.append(f"--preset {preset}")
        for asset in assets:
            commit = f"commit {asset.revision}" if asset.revision else "commit: main's at the first download, then kept"
            lines += [
                f"  {asset.repo}{' (data set)' if asset.kind == 'dataset' else ''}   about {asset.gigabytes:.1f} GB"
                + (f", {2 * asset.gigabytes:.0f} GB while it is unpacked" if asset.archives else ""),
                f"    {asset.purpose}",
                f"    {commit}",
                f"    licence: {asset.licence}",
            ]
    total = sum(asset.gigabytes for asset in PRESETS["all"])
    return "\n".join([*lines, f"--preset all   about {total:.0f} GB"])


def exports(assets: Sequence[Asset], out: Path) -> str:
    """Shell lines that set the scripts' variables; where two assets have the same one, the second as a comment."""
    lines: list[str] = []
    taken: set[str] = set()
    for asset in assets:
        for variable, path in asset.exports:
            line = f"export {variable}={shlex.quote(str(out / asset.name / path))}"
            lines.append(f"# {line}" if variable in taken else line)
            taken.add(variable)
        if asset.hint:
            lines.append(f"# {asset.hint.format(folder=shlex.quote(str(out / asset.name)))}")
    return "\n".join(lines)


def _bring(assets: Sequence[Asset], out: Path, endpoint: str, update: bool) -> None:
    """Make every asset whole in its folder. Raises UsageError before the first byte, SennaError after it."""
    from tqdm import tqdm

    from senna.download.plan import plan

    def checking(file) -> Callable[[int], None]:
        _say(f"{file.name} is here already; reading it ({_size(file.size)}) to compare its hash")
        return lambda count: None

    jobs = [plan(asset, out, endpoint, update, checking) for asset in assets]
    for job in jobs:
        _tell(job)
    _check_room(jobs, out)
    whole = sum(file.size for job in jobs for file in job.missing)
    came = sum(job.came for job in jobs)
    if whole:
        with _bar(tqdm, "fetching", whole, came) as bar:
            for job in jobs:
                _fetch(job, endpoint, bar.update)
    for job in jobs:
        _unpack(job)


def _tell(job: "Job") -> None:
    where = f"{job.asset.repo} at {job.revision}  ->  {job.store.folder}"
    if not job.files:
        _say(f"{where}\n    complete")
        return
    come = f"; {_size(job.to_fetch)} to fetch" if job.missing else ", all here"
    more = f", then to be unpacked into {', '.join(f.name for _, f in job.to_unpack)}/" if job.to_unpack else ""
    _say(f"{where}\n    {len(job.files)} files, {_size(job.whole)}{come}{more}")
    if job.asset.revision is None:
        _say("    this commit stays until --update")


def _check_room(jobs: "Sequence[Job]", out: Path) -> None:
    from senna.files import free_space

    room, free = sum(job.room for job in jobs), free_space(out)
    if room:
        _say(f"{_size(room)} more will be on the disk, which has {_size(free)} free")
    if room > free:
        raise UsageError(
            f"--out {out}: {_size(room)} are needed beside what is there already, {_size(free)} are free; make room, or "
            "--out DIR on another disk"
        )


def _fetch(job: "Job", endpoint: str, advance: Callable[[int], object]) -> None:
    from senna.download.fetch import Partial, fetch
    from senna.download.hub import explain, opened

    if not job.files:
        return
    with job.store.alone():
        job.store.begin(job.revision, job.files)
        for file in job.missing:
            target = job.store.folder / file.name
            partial = Partial.path_of(target, file)
            if partial.is_file() and partial.stat().st_size:
                _say(f"{file.name}: going on after {_size(partial.stat().st_size)} of {_size(file.size)}")
            if target.is_file() and target.stat().st_size <= _SMALL and not job.store.is_own(file.name):
                target.replace(target.with_name(f"{file.name}.old"))
                _say(f"{target} was changed here, or is damaged: kept as {file.name}.old")
            fetch(
                file,
                target,
                lambda start, file=file: opened(job.asset, file, job.revision, endpoint, start),
                advance,
                _say,
                lambda error: explain(error, job.asset, endpoint),
            )
            job.store.remember(file)


def _unpack(job: "Job") -> None:
    from tqdm import tqdm

    from senna.download.unpack import unpack

    if not job.to_unpack:
        return
    with job.store.alone():
        for archive, folder in job.to_unpack:
            path = job.store.folder / archive.name
            with _bar(tqdm, f"unpacking into {folder.name}/", 0, 0) as bar:

                def begin(total: int, bar=bar) -> Callable[[int], object]:
                    bar.reset(total)
                    return bar.update

                count = unpack(path, folder, begin)
            job.store.remember_unpacked(folder.name, archive.digest)
            path.unlink()
            _say(f"{folder}: {count} files; {archive.name} was removed")


def _bar(tqdm, text: str, total: int, initial: int):
    often = 0.3 if sys.stderr.isatty() else 30.0  # seconds; a log needs fewer lines
    return tqdm(
        desc=text, total=total, initial=initial, unit="B", unit_scale=True, dynamic_ncols=True, mininterval=often
    )


def _say(text: str) -> None:
    """To standard error, above the bar; standard output is the scripts'."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
