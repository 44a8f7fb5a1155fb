"""The row kernels, compiled where they can be."""

try:
    from bridge.lake._rows import (
        assign_slots,
        filter_rows,
        group_rows,
        merge_duplicates,
        sort_head_rows,
    )
except ImportError:
    from bridge.lake.twins.rows import (
        assign_slots,
        filter_rows,
        group_rows,
        merge_duplicates,
        sort_head_rows,
    )

__all__ = ["assign_slots", "filter_rows", "group_rows", "merge_duplicates", "sort_head_rows"]
