"""Where the lake lies and how often it is written and looked at."""

from dataclasses import dataclass
from pathlib import Path

from bridge.model.options import Duration, KeyValues, Size, option


# Without a repr, because the storage options hold secrets (LAKE-11).
@dataclass(frozen=True, slots=True, repr=False)
class LakeSettings:
    """Settings of the lake."""

    uri: str = option(
        "data/lake",
        "Where the lake lies: a folder, or s3://BUCKET/PATH, gs://BUCKET/PATH, "
        "az://CONTAINER/PATH.",
    )
    storage_options: KeyValues = option(
        KeyValues(()),
        "How the bucket is reached, see docs/object-stores.md. They win over the environment, "
        "which is the better place for keys: a command line can be seen by others.",
        flag="storage-option",
    )
    cache_path: Path = option(
        Path("data/cache"), "Where what was fetched from the bucket is kept; a folder needs none."
    )
    cache_max_bytes: Size = option(
        Size(10 << 30), "Size of that cache; the least recently used goes first."
    )
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
