from bridge.lake.schema import DAY_MS
from bridge.lake.snapshot import LakeFile
from bridge.sql.branches import HOUR_MS, group_files

NOW_MS = 1_795_219_200_000


def file_until(end_ms: int, length_ms: int = 60_000) -> LakeFile:
    return LakeFile(
        f"/lake/{end_ms}.parquet",
        "",
        1,
        1,
        timestamp_ms_min=end_ms - length_ms + 1,
        timestamp_ms_max=end_ms,
    )


def test_every_file_is_in_one_branch_within_its_bounds() -> None:
    files = [file_until(NOW_MS - minutes * 60_000) for minutes in range(0, 90 * 1440, 37)]
    branches = group_files(files)
    assert sorted(file.path for branch in branches for file in branch.files) == sorted(
        file.path for file in files
    )
    for branch in branches:
        assert branch.time_ms_min == min(file.timestamp_ms_min for file in branch.files)
        assert branch.time_ms_max == max(file.timestamp_ms_max for file in branch.files)


def test_old_files_are_in_fewer_branches_than_young_ones() -> None:
    hours = [file_until(NOW_MS - hour * HOUR_MS, HOUR_MS) for hour in range(24)]
    days = [file_until(NOW_MS - day * DAY_MS, DAY_MS) for day in range(1, 400)]
    assert len(group_files(hours)) == 24
    assert len(group_files(days)) <= 32 + 14


def test_the_first_and_last_ms_of_a_day_are_in_its_branch() -> None:
    old_ms = NOW_MS - 3 * DAY_MS
    files = [file_until(NOW_MS), file_until(old_ms + 1, 1), file_until(old_ms + DAY_MS, 1)]
    assert [len(branch.files) for branch in group_files(files)] == [2, 1]


def test_a_file_without_bounds_is_never_ruled_out() -> None:
    unknown = LakeFile("/lake/x.parquet", "", 1, 1)
    branches = group_files([unknown, file_until(NOW_MS)])
    [alone] = [branch for branch in branches if unknown in branch.files]
    assert (len(alone.files), alone.is_bounded) == (1, False)


def test_no_files_are_no_branches() -> None:
    assert group_files([]) == []
