"""Which targets a Kubernetes-like fleet has, and the label sets of all that they expose.

A fleet is nodes with 24 pods each. A node has two targets, node_exporter and cAdvisor; two thirds
of the pods have one of their own; one kube-state-metrics knows all pods. A share of the pods is
replaced once: their series end, and those of the new pod begin at the same scrape.
"""

import itertools
import random
from dataclasses import dataclass
from functools import cache

from benchmarks.catalogue import (
    CONTAINER,
    NODE,
    ONE_METRIC,
    POD_STATE,
    SERVICE,
    Template,
    templates,
)

PODS_PER_NODE = 24
CHURN_RATIO = 0.03

_NODE, _CONTAINER, _POD_STATE = templates(NODE), templates(CONTAINER), templates(POD_STATE)
_SERVICE, _ONE_METRIC = templates(SERVICE), templates(ONE_METRIC)
_COMMON = {"cluster": "prod-eu-west-1"}
_NAMESPACES = ["checkout", "payments", "search", "identity", "notifications", "ml-serving"]
_SERVICES = ["api", "worker", "frontend", "scheduler", "event-router", "session-store", "pricing"]
_KUBE_STATE = 0
"""The one target of all nodes; the others count from 1."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Size and shape of one workload."""

    series_count: int
    scrape_count: int
    interval_ms: int = 15_000
    is_one_metric: bool = False
    churn_ratio: float = CHURN_RATIO


class Fleet:
    """Every series of a workload; all lists are as long as there are series.

    Attributes:
        labels: protobuf `TimeSeries.labels` of each series, sorted by name.
        kinds: how its values move.
        targets: number of the target that exposes it.
        first: its first scrape.
        end: the scrape that finds it gone and writes a stale marker; the scrape count if none does.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        """Builds as many nodes as it takes for `series_count` series at any time."""
        self.labels: list[bytes] = []
        self.kinds: list[str] = []
        self.targets: list[int] = []
        self.first: list[int] = []
        self.end: list[int] = []
        self._profile = profile
        self._random = random.Random(seed)
        self._numbers = itertools.count(_KUBE_STATE + 1)
        self._replaced_count = 0
        while len(self.labels) - self._replaced_count < profile.series_count:
            if profile.is_one_metric:
                self._add_one_metric()
            else:
                self._add_node()
        for column in (self.labels, self.kinds, self.targets, self.first, self.end):
            del column[profile.series_count + self._replaced_count :]

    def _add(
        self, exposed: list[Template], target: int, base: dict[str, str], life: tuple[int, int]
    ) -> None:
        """What one target exposes, under the labels that it gives to all of it."""
        for template in exposed:
            pairs = sorted({**base, **template.labels}.items())
            self.labels.append(b"".join([_encode_label(*pair) for pair in pairs]))
            self.kinds.append(template.kind)
            self.targets.append(target)
            self.first.append(life[0])
            self.end.append(life[1])

    def _add_node(self) -> None:
        draws, scrape_count = self._random, self._profile.scrape_count
        octets = [draws.randrange(4, 64), draws.randrange(256), draws.randrange(1, 255)]
        host = "ip-10-{}-{}-{}.eu-west-1.compute.internal".format(*octets)
        exporter = {
            "job": "node-exporter",
            "instance": f"{host}:9100",
            "namespace": "monitoring",
            "pod": f"node-exporter-{self._word(5)}",
            "container": "node-exporter",
            "endpoint": "https-metrics",
        }
        whole = (0, scrape_count)
        self._add(_NODE, next(self._numbers), _COMMON | exporter, whole)
        kubelet = next(self._numbers)
        for number in range(PODS_PER_NODE):
            service = draws.choice(_SERVICES)
            owner = f"{service}-{self._word(10)}"
            namespace = draws.choice(_NAMESPACES)
            own = next(self._numbers) if number % 3 else None
            lives = [whole]
            if scrape_count > 2 and draws.random() < self._profile.churn_ratio:
                gone = draws.randrange(1, scrape_count)
                lives = [(0, gone), (gone, scrape_count)]
            for life in lives:
                pod = {
                    "namespace": namespace,
                    "pod": f"{owner}-{self._word(5)}",
                    "container": service,
                }
                before = len(self.labels)
                self._add_pod(_COMMON | pod, host, kubelet, own, life)
                if life[0]:
                    self._replaced_count += len(self.labels) - before

    def _add_pod(
        self, pod: dict[str, str], host: str, kubelet: int, own: int | None, life: tuple[int, int]
    ) -> None:
        uid, container_id = self._hex(32), self._hex(64)
        image = f"{pod['namespace']}/{pod['container']}:v2.17.4"
        scope = f"kubepods-burstable-pod{uid}.slice/cri-containerd-{container_id}.scope"
        container = {
            "job": "kubelet",
            "instance": host.partition(".")[0] + ":10250",
            "node": host,
            "metrics_path": "/metrics/cadvisor",
            "image": "482910337765.dkr.ecr.eu-west-1.amazonaws.com/" + image,
            "id": "/kubepods.slice/kubepods-burstable.slice/" + scope,
            "name": container_id,
        }
        self._add(_CONTAINER, kubelet, pod | container, life)
        state = {
            "job": "kube-state-metrics",
            "instance": "10.140.22.17:8443",
            "endpoint": "https-main",
            "uid": uid,
            "node": host,
        }
        self._add(_POD_STATE, _KUBE_STATE, pod | state, life)
        if own is not None:
            service = {
                "job": pod["container"],
                "instance": self._address(),
                "endpoint": "http-metrics",
            }
            self._add(_SERVICE, own, pod | service, life)

    def _add_one_metric(self) -> None:
        service = self._random.choice(_SERVICES)
        base = {
            "job": service,
            "instance": self._address(),
            "namespace": self._random.choice(_NAMESPACES),
            "pod": f"{service}-{self._word(10)}-{self._word(5)}",
            "container": service,
            "endpoint": "http-metrics",
        }
        whole = (0, self._profile.scrape_count)
        self._add(_ONE_METRIC, next(self._numbers), _COMMON | base, whole)

    def _word(self, length: int) -> str:
        return "".join(self._random.choices("bcdfghjklmnpqrstvwxz2456789", k=length))

    def _hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"

    def _address(self) -> str:
        draws = self._random
        return f"10.{draws.randrange(128, 192)}.{draws.randrange(256)}.{draws.randrange(255)}:8080"


def varint(number: int) -> bytes:
    """A protobuf varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@cache
def _encode_label(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    pair = b"\x0a" + varint(len(name_bytes)) + name_bytes
    pair += b"\x12" + varint(len(value_bytes)) + value_bytes
    return b"\x0a" + varint(len(pair)) + pair
