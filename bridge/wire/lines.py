r"""InfluxDB's line protocol: one line a sample, put together from prefixes that are kept.

    http_requests_total,code=200,job=api value=17 1790000000000
    '---------------- prefix -----------------''- value and Unix ms, and the newline

A prefix is made once for a series; a line is a copy of it, a number and a time. Tags are sorted by
their bytes as written, which spares the server a sort of its own.

InfluxDB has no escape for a backslash and none for a newline, and different places of its parser
and of its index take what follows a backslash differently (source: influxdb v2.7 models/points.go,
pkg/escape). What is written is therefore this; all but the last five rows come back as they were:

    , and space      \, and "\ "
    =                \=           in keys and values of tags and in field keys
    "                \"           in field keys
    tab, CR, NUL, …  as they are
    backslash        as it is
    newline          \n           two characters, as the official clients do
    backslash at     _ behind it  it would swallow the comma, equals sign or space that follows
    the very end
    backslash before _ behind it  in measurements and field keys: without it the point is refused,
    , = " or space                or is stored and never found again; in tags before a space alone,
                                  where it could make the parser take two lines for one
    # tab NUL in     \ before it  in measurements and field keys: the server skips a line that
    first place                   begins with #, and blanks
    a reserved tag   exported_X   as Prometheus renames labels that clash with its own: the server
                                  refuses time, _field, _measurement and NUL; it accepts _time,
                                  _value, _start and _stop, and then fails or lies when asked

A number is the shortest text that gives the same 64 bits again.

Limits: 2 GiB of names and of values a call (they are an Arrow column). A key of more than 65 535
bytes is written here and refused by the server.
"""

try:
    from bridge.wire._lines import encode_lines, encode_prefixes
except ImportError:
    from bridge.wire.twins.lines import encode_lines, encode_prefixes

__all__ = ["encode_lines", "encode_prefixes"]
