"""Where the lake lies and how often it is written and looked at."""

from dataclasses import dataclass

from bridge.model.options import Duration, option


@dataclass(frozen=True, slots=True)
class LakeSettings:
    """Settings of the lake."""

    uri: str = option("data/lake", "Where the lake lies: a folder.")
    flush_interval: Duration = option(
        Duration(60), "How often what was received is committed to the lake."
    )
    refresh_interval: Duration = option(
        Duration(5),
        "How old a reader's view of the lake may be; what this process commits it sees at once.",
    )
    single_writer: bool = option(
        False,
        "Promises that this process alone ever commits to the lake: for stores without "
        "put-if-absent, which are refused otherwise.",
    )
