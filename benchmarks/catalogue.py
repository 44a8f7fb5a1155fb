"""What the targets of a Kubernetes-like fleet expose: one line per metric, read into templates.

    kind  metric{alternative,alternative}_more  label=value,value  label=value

stands for the product of all alternatives and values. The kinds are those of `waveforms.py`. Names
and labels are those of node_exporter, cAdvisor, kube-state-metrics and a Go service; what makes a
workload real for a store is their mix: long labels (cAdvisor's `id` alone has 200 bytes), many
series that never move, few with random mantissas.
"""

import itertools
from dataclasses import dataclass

NODE = """
centisecond node_cpu_seconds_total cpu=0,1,2,3,4,5,6,7 mode=idle,iowait,softirq,system,user
idle        node_cpu_seconds_total cpu=0,1,2,3,4,5,6,7 mode=irq,nice,steal
nanosecond  node_schedstat_running_seconds_total cpu=0,1,2,3
counter     node_schedstat_timeslices_total cpu=0,1,2,3
idle        node_softnet_{dropped,times_squeezed}_total cpu=0,1,2,3
counter     node_network_receive_{bytes,packets}_total device=eth0,lo,cilium_host,cilium_net
counter     node_network_transmit_{bytes,packets}_total device=eth0,lo,cilium_host,cilium_net
idle        node_network_receive_{errs,drop,fifo,frame}_total device=eth0,lo,cilium_host,cilium_net
idle        node_network_transmit_{errs,drop,fifo,colls}_total device=eth0,lo,cilium_host,cilium_net
constant    node_network_{mtu_bytes,up,speed_bytes} device=eth0,lo,cilium_host,cilium_net
counter     node_disk_{reads,writes}_completed_total device=nvme0n1,nvme1n1
counter     node_disk_{read,written}_bytes_total device=nvme0n1,nvme1n1
nanosecond  node_disk_io_time{,_weighted}_seconds_total device=nvme0n1,nvme1n1
idle        node_disk_discards_{completed,merged}_total device=nvme0n1,nvme1n1
gauge       node_filesystem_{avail_bytes,free_bytes,files_free} mountpoint=/,/var,/run fstype=xfs
constant    node_filesystem_{size_bytes,files,readonly} mountpoint=/,/var,/run fstype=xfs
gauge       node_memory_{Active,AnonPages,Buffers,Cached,Dirty,MemAvailable,MemFree,Slab}_bytes
constant    node_memory_{MemTotal,SwapTotal,SwapFree,CommitLimit,Hugepagesize,Unevictable}_bytes
decimal     node_load{1,5,15}
counter     node_{context_switches,intr,forks}_total
counter     node_vmstat_{pgfault,pgpgin,pgpgout}
gauge       node_sockstat_TCP_{alloc,inuse,tw}
gauge       node_{procs_running,nf_conntrack_entries,filefd_allocated}
nanosecond  node_pressure_{cpu,io,memory}_waiting_seconds_total
noise       node_scrape_collector_duration_seconds collector=cpu,diskstats,filesystem,meminfo,netdev
constant    node_scrape_collector_success collector=cpu,diskstats,filesystem,meminfo,netdev
noise       node_{time_seconds,timex_offset_seconds}
constant    node_{boot_time_seconds,timex_sync_status,entropy_available_bits}
decimal     node_hwmon_temp_celsius chip=platform_coretemp_0 sensor=temp1,temp2,temp3
"""

CONTAINER = """
nanosecond  container_cpu_usage_seconds_total
centisecond container_cpu_{user,system}_seconds_total
counter     container_cpu_cfs_periods_total
idle        container_cpu_cfs_throttled_{periods,seconds}_total
gauge       container_memory_{working_set_bytes,rss,cache,usage_bytes}
gauge       container_{threads,sockets,file_descriptors}
constant    container_memory_{swap,max_usage_bytes}
constant    container_spec_{memory_limit_bytes,cpu_quota,cpu_shares,cpu_period}
constant    container_{start_time_seconds,processes}
counter     container_last_seen
counter     container_memory_failures_total failure_type=pgfault scope=container
idle        container_memory_failures_total failure_type=pgmajfault scope=container
counter     container_fs_writes_bytes_total device=/dev/nvme1n1
idle        container_fs_reads_bytes_total device=/dev/nvme1n1
counter     container_network_{receive,transmit}_{bytes,packets}_total interface=eth0
idle        container_network_{receive,transmit}_{errors,packets_dropped}_total interface=eth0
"""

POD_STATE = """
constant    kube_pod_status_phase phase=Pending,Running,Succeeded,Failed,Unknown
constant    kube_pod_status_ready condition=true,false,unknown
constant    kube_pod_{info,start_time,created,owner}
constant    kube_pod_container_status_{ready,running,waiting}
idle        kube_pod_container_status_restarts_total
constant    kube_pod_container_resource_{requests,limits} resource=cpu,memory
"""

SERVICE = """
counter     http_requests_total handler=/api/v1/orders,/api/v1/users code=200,404
idle        http_requests_total handler=/api/v1/orders,/api/v1/users,/healthz code=500,503
counter     http_request_duration_seconds_bucket handler=/api/v1/orders le=0.01,0.1,0.5,1,2,5,+Inf
idle        http_request_duration_seconds_bucket handler=/api/v1/orders le=0.001,0.005
idle        http_request_duration_seconds_bucket handler=/healthz le=0.001,0.01,0.1,1,5,+Inf
noise       http_request_duration_seconds_sum handler=/api/v1/orders,/healthz
counter     http_request_duration_seconds_count handler=/api/v1/orders
idle        http_request_duration_seconds_count handler=/healthz
gauge       go_{goroutines,threads}
gauge       go_memstats_{alloc,heap_inuse,heap_idle,stack_inuse,next_gc}_bytes
counter     go_memstats_{alloc_bytes,mallocs,frees}_total
noise       go_gc_duration_seconds quantile=0,0.5,1
noise       go_memstats_last_gc_time_seconds
constant    go_info version=go1.26.4
centisecond process_cpu_seconds_total
gauge       process_{open_fds,resident_memory_bytes,virtual_memory_bytes}
constant    process_{max_fds,start_time_seconds}
gauge       db_pool_connections pool=primary,replica state=idle,in_use
nanosecond  db_pool_wait_seconds_total pool=primary,replica
decimal     cache_hit_percent cache=local,shared
noise       scrape_duration_seconds
constant    {up,scrape_samples_scraped}
"""

# `reads` asks for one metric that has many series: 50 of a service.
ONE_METRIC = """
counter     http_requests_total handler=/a,/b,/c,/d,/e method=GET,POST code=200,204,404
idle        http_requests_total handler=/a,/b,/c,/d,/e method=GET,POST code=500,503
"""


@dataclass(frozen=True, slots=True)
class Template:
    """One series of a target, without the labels that come from the target.

    Attributes:
        kind: how its values move, see `waveforms.KINDS`.
        labels: its own labels with `__name__`.
    """

    kind: str
    labels: dict[str, str]


def templates(table: str) -> list[Template]:
    """The series that a table of this module stands for."""
    found = []
    for line in table.strip().splitlines():
        kind, metric, *labels = line.split()
        names = [label.partition("=")[0] for label in labels]
        choices = [label.partition("=")[2].split(",") for label in labels]
        for name in _alternatives(metric):
            for chosen in itertools.product(*choices):
                own = dict(zip(names, chosen, strict=True))
                found.append(Template(kind, {"__name__": name, **own}))
    return found


def _alternatives(metric: str) -> list[str]:
    before, brace, rest = metric.partition("{")
    if not brace:
        return [metric]
    choices, _, after = rest.partition("}")
    tails = _alternatives(after)
    return [before + choice + tail for choice in choices.split(",") for tail in tails]
