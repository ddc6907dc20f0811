"""Limits of containers and of cluster jobs, in fake /proc and /sys folders. No real control group is touched."""

import os
from pathlib import Path

import pytest

from senna.cgroup import Limit, available_cores, memory_limits
from senna.doctor import disk

GB = 10**9
MOUNT_1 = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
MOUNT_2 = "41 31 0:38 {root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"


def machine(root: Path, groups: str, mounts: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    return root


def group_1(root: Path, path: str, limit: int | str, used: int, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup/memory" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"cache 1\ninactive_file 1\ntotal_inactive_file {cache - 1}\ntotal_active_file 1\n"
    )


def group_2(root: Path, path: str, limit: int | str, used: int, high: int | str = "max", cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.high").write_text(f"{high}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {cache - 1}\nactive_file 1\n")


def test_a_slurm_job_has_the_limits_of_every_group_above_it_in_version_1(tmp_path):
    groups = "5:memory:/slurm/uid_7/job_1/step_0\n4:cpu,cpuacct:/slurm/uid_7\n0::/\n"
    root = machine(tmp_path, groups, MOUNT_1.format(root="/"))
    group_1(root, "", 2**63 - 4096, 90 * GB)
    group_1(root, "slurm/uid_7/job_1/step_0", 2**63 - 4096, 3 * GB)
    group_1(root, "slurm/uid_7/job_1", 16 * GB, 5 * GB, cache=GB)
    group_1(root, "slurm/uid_7", 64 * GB, 60 * GB)
    limits = list(memory_limits(root))
    assert Limit(16 * GB, 12 * GB) in limits  # cache that the kernel would free counts as free
    assert Limit(64 * GB, 4 * GB) in limits
    assert len(limits) == 4


@pytest.mark.parametrize(
    ("own", "mounted", "point"),
    [
        ("/system.slice/slurmstepd.scope/job_1/step_0/user/task_0", "/", "/sys/fs/cgroup"),
        ("/docker/1f/system.slice/slurmstepd.scope/job_1/step_0/user/task_0", "/docker/1f", "/sys/fs/cgroup"),
    ],
)
def test_a_slurm_job_has_the_limits_of_every_group_above_it_in_version_2(tmp_path, own, mounted, point):
    root = machine(tmp_path, f"0::{own}\n", MOUNT_2.format(root=mounted, point=point))
    job = "system.slice/slurmstepd.scope/job_1"
    group_2(root, f"{job}/step_0/user/task_0", "max", GB)
    group_2(root, f"{job}/step_0/user", "max", GB)
    group_2(root, f"{job}/step_0", 20 * GB, GB, high=18 * GB)
    group_2(root, job, 16 * GB, 4 * GB, cache=GB)
    assert set(memory_limits(root)) == {
        Limit(20 * GB, 19 * GB), Limit(18 * GB, 17 * GB), Limit(16 * GB, 13 * GB)
    }  # fmt: skip


@pytest.mark.parametrize("own", ["/", "/../../outside", "/kubepods/pod1/abc"])
def test_a_container_that_sees_its_own_group_as_the_root_has_its_limit(tmp_path, own):
    root = machine(tmp_path, f"0::{own}\n", MOUNT_2.format(root="/", point="/sys/fs/cgroup"))
    group_2(root, "", 8 * GB, 2 * GB)
    assert list(memory_limits(root)) == [Limit(8 * GB, 6 * GB)]


def test_a_hybrid_machine_has_the_limits_of_version_1(tmp_path):
    mounts = "\n".join([MOUNT_1.format(root="/"), MOUNT_2.format(root="/", point="/sys/fs/cgroup/unified")])
    root = machine(tmp_path, "4:memory:/job\n1:name=systemd:/x\n0::/x\n", mounts)
    group_1(root, "job", 7 * GB, GB)
    assert list(memory_limits(root)) == [Limit(7 * GB, 6 * GB)]


def test_a_machine_without_groups_has_no_limits(tmp_path):
    assert list(memory_limits(tmp_path)) == []


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    root = machine(tmp_path, "0::/job\n", MOUNT_2.format(root="/", point="/sys/fs/cgroup"))
    group_2(root, "job", 4 * GB, 5 * GB)
    assert list(memory_limits(root)) == [Limit(4 * GB, 0)]


def test_the_main_memory_is_that_of_the_smallest_limit(monkeypatch):
    monkeypatch.setattr(disk, "memory_limits", lambda: [Limit(3 * 2**20, 2 * 2**20), Limit(5 * 2**20, 2**20)])
    assert disk.main_memory() == (3 * 2**20, 2**20)


def test_a_limit_whose_usage_cannot_be_read_still_counts(tmp_path):
    root = machine(tmp_path, "0::/job\n", MOUNT_2.format(root="/", point="/sys/fs/cgroup"))
    (root / "sys/fs/cgroup/job").mkdir(parents=True)
    (root / "sys/fs/cgroup/job/memory.max").write_text("4096\n")
    assert list(memory_limits(root)) == [Limit(4096, 4096)]


CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", CORES)])
def test_a_quota_of_cpu_time_above_the_own_group_limits_the_cores_in_version_2(tmp_path, quota, expected):
    root = machine(tmp_path, "0::/job/step\n", MOUNT_2.format(root="/", point="/sys/fs/cgroup"))
    (root / "sys/fs/cgroup/job/step").mkdir(parents=True)
    (root / "sys/fs/cgroup/job/step/cpu.max").write_text("max 100000\n")
    (root / "sys/fs/cgroup/job/cpu.max").write_text(f"{quota}\n")
    assert available_cores(root) == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", CORES)])
def test_a_quota_of_cpu_time_above_the_own_group_limits_the_cores_in_version_1(tmp_path, quota, expected):
    mount = "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
    root = machine(tmp_path, "5:memory:/other\n4:cpu,cpuacct:/job/step\n", mount)
    (root / "sys/fs/cgroup/cpu,cpuacct/job/step").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(root) == expected


def test_the_affinity_of_the_process_limits_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert available_cores(tmp_path) == 1
