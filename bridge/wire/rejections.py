"""Why a series or a sample is refused, and the sentence that tells its sender."""

from collections.abc import Sequence

from bridge.wire.decoded import TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN, Limits

REASONS: tuple[str, ...] = (
    "",
    "bad_symbol_ref",
    "label_limit",
    "invalid_name",
    "invalid_utf8",
    "duplicate_label",
    "missing_name",
    "no_samples",
    "series_limit",
    "series_id_collision",
    "timestamp_out_of_range",
    "too_far_in_future",
    "histogram_unsupported",
)
"""Reason codes are indices; 0 is no reason, accepted."""

MESSAGE_COUNT_MAX = 10
"""Messages of one request: a sender logs the first 1024 bytes of an answer."""

LABEL_TEXT_MAX = 256
"""Characters of labels in a message: enough for most series, and a bound for hostile ones."""

LABEL_COUNT_SHOWN = 32
"""Labels that a message is made from; more do not fit into its text anyway."""


def describe_rejection(
    reason: str,
    labels: Sequence[tuple[bytes, bytes]],
    limits: Limits,
    timestamp_ms: int,
    receive_ms: int,
) -> str:
    """One sentence that names what was refused and why.

    Args:
        reason: one of REASONS.
        labels: as they were sent; of a v2 series those whose refs exist.
        limits: what the request was held to.
        timestamp_ms: of the sample, where a sample was refused.
        receive_ms: when the request came.
    """
    detail = {
        "bad_symbol_ref": "a ref points past the symbols, or the label refs are odd in number",
        "label_limit": (
            f"allowed are {limits.label_count_max} labels, names of "
            f"{limits.label_name_bytes_max} and values of {limits.label_value_bytes_max} bytes, "
            f"and {limits.series_bytes_max} bytes of them all"
        ),
        "invalid_name": "a label has no name",
        "invalid_utf8": "a label name or value is not UTF-8",
        "duplicate_label": "a label name is there twice",
        "missing_name": "there is no __name__",
        "no_samples": "no sample, histogram or exemplar",
        "series_limit": f"a new series past the limit of {limits.series_count_max}",
        "series_id_collision": "another label set of this metric has the same series id",
        "timestamp_out_of_range": (
            f"timestamp {timestamp_ms} ms, allowed are {TIMESTAMP_MS_MIN} to {TIMESTAMP_MS_MAX}"
        ),
        "too_far_in_future": (
            f"timestamp {timestamp_ms} ms is {timestamp_ms - receive_ms} ms ahead, "
            f"allowed are {limits.future_ms_max}"
        ),
        "histogram_unsupported": "native histograms are not stored yet",
    }[reason]
    return f"{reason}: {_labels_text(labels)}: {detail}"


def _labels_text(labels: Sequence[tuple[bytes, bytes]]) -> str:
    text = ""
    for name, value in labels[:LABEL_COUNT_SHOWN]:
        if len(text) > LABEL_TEXT_MAX:
            break
        shown = value[:LABEL_TEXT_MAX].decode(errors="backslashreplace")
        text += f', {name[:LABEL_TEXT_MAX].decode(errors="backslashreplace")}="{shown}"'
    text = text[2:]
    return f"{{{text}}}" if len(text) <= LABEL_TEXT_MAX else f"{{{text[:LABEL_TEXT_MAX]}...}}"
