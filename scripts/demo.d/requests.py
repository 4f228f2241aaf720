"""`scripts/demo l7`: requests of HTTP and Kafka that policies let pass and refuse, with their flows, step by step."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from screen import Screen
from stage import KernelStage

from tests.support.agent import BIN
from tests.support.kafka_clients import consume, produce
from tests.support.kafka_site import broker_at
from tests.support.web import started

POLICIES: Final = Path(__file__).with_name("l7.yaml")
PODS: Final = ("client", "api", "vault", "service1", "service2", "broker")
ROOT_IS_FOR: Final = (
    "You are not root. Root is needed to make pods, to load eBPF programs, and for proxies that speak with the pods' "
    "own addresses. So nothing is sent here: `cplane policy eval` says what would become of the same requests."
)
_TOPICS: Final = ("topic1", "topic2")
_PATIENT_S: Final = 5.0
_TOKEN: Final = {"x-token": "123"}

Ask = tuple[str, str, str, Mapping[str, str], bool]  # target, method, path, headers, whether it may

HTTP: Final[Sequence[Ask]] = (
    ("api", "GET", "/public/news", {}, True),
    ("api", "GET", "/private", {}, False),
    ("api", "POST", "/public/news", {}, False),
    ("api", "GET", "/public/../private", {}, False),
    ("vault", "GET", "/", _TOKEN, True),
    ("vault", "GET", "/", {"x-token": "abc"}, False),
    ("vault", "GET", "/", {}, False),
)
KAFKA: Final = (
    ("service1", "produce", "topic1", True),
    ("service2", "fetch", "topic1", True),
    ("service1", "produce", "topic2", False),
    ("service2", "produce", "topic1", False),
    ("service1", "fetch", "topic1", False),
)


class Requests:
    """One run on a stage of its own."""

    def __init__(self, stage: KernelStage, screen: Screen, held: ExitStack) -> None:
        self.stage, self.screen, self.agent, self._held = stage, screen, stage.agent, held

    def play(self) -> None:
        """Every step. Raises WrongError, AgentFailed."""
        self.start()
        self.policy()
        self.http()
        self.kafka()
        self.observed()
        self.why()
        self.killed()

    def start(self) -> None:
        """An agent, pods, two servers and a broker run."""
        self.screen.step("Start an agent and six pods", "An API, a vault and a Kafka broker, and who asks them.")
        self.stage.open()
        self.agent.start()
        for name in PODS:
            self.stage.pods.add(name, serve=False)
        for name in ("api", "vault"):
            pod = self.stage.pods[name]
            pod.server = started(pod.netns, 80)
        broker = self.stage.pods["broker"]
        self._held.enter_context(broker_at(broker.netns, broker.ipv4, self.stage.folder))
        self.screen.command("cplane endpoint list", self.agent.cplane("endpoint", "list").stdout)
        for topic in _TOPICS:
            said = produce(self.stage.pods["service1"].netns, "confluent", topic, "first", self._broker)
            self.screen.check(f"without a policy service1 produces to {topic}", [said] if said else [])

    def policy(self) -> None:
        """The policies are in force, at the proxies too."""
        self.screen.step("Apply three CiliumNetworkPolicies", "What they say of requests, proxies enforce.")
        self.screen.command(f"cat {os.path.relpath(POLICIES)}", POLICIES.read_text())
        done = self.agent.cplane("policy", "apply", "-f", str(POLICIES), "--wait")
        self.screen.command(f"cplane policy apply -f {os.path.relpath(POLICIES)} --wait", done.stdout)
        self.screen.command("cplane policy status", self.agent.cplane("policy", "status").stdout)

    def http(self) -> None:
        """HTTP is as (a) and (c) say, over both families."""
        self.screen.step("Ask with curl", "(a) GET /public/.* and nothing else; (c) X-Token must be there, a number.")
        for target, method, path, headers, may in HTTP:
            for family in (4, 6):
                command = self._curl(target, method, path, headers, family)
                status = self._in("client", *command).strip()
                wanted = "200" if may else "403"
                self.screen.check(
                    f"{' '.join(command[-1:])} {method}{_shown(headers)}: {status}",
                    [] if status == wanted else [f"{wanted} was expected"],
                )

    def kafka(self) -> None:
        """Kafka is as (b) says."""
        self.screen.step("Produce and consume", "(b) service1 produces to topic1, service2 consumes it: a real client.")
        pods = self.stage.pods
        value = os.urandom(4).hex()
        for service, api, topic, may in KAFKA:
            if api == "produce":
                said = produce(pods[service].netns, "confluent", topic, value, self._broker)
                wrong = [] if (not said) is may else [said or "it was taken"]
                self.screen.check(f"{service} produces to {topic}: {said or 'taken'}", wrong)
            else:
                found = consume(pods[service].netns, "confluent", topic, f"group-{service}", self._broker)
                got = isinstance(found, list) and bool(found)
                text = "taken" if got else str(found)
                self.screen.check(f"{service} consumes {topic}: {text}", [] if got is may else [text])

    def observed(self) -> None:
        """Hubble shows each request."""
        self.screen.step("See the requests with hubble", "Who asked what of whom, and what became of it.")
        wanted = {
            *(("client", target, "FORWARDED" if may else "DROPPED") for target, *_, may in HTTP),
            *((service, "broker", "FORWARDED" if may else "DROPPED") for service, _, _, may in KAFKA),
        }
        seen: set[tuple[str, str, str]] = set()
        deadline = time.monotonic() + _PATIENT_S
        while not wanted <= seen and time.monotonic() < deadline:
            seen |= {_essence(flow) for flow in self._requests()}
        for arguments in (("--protocol", "http", "--last", "8"), ("--protocol", "kafka", "--verdict", "DROPPED")):
            self.screen.command(
                f"hubble observe {' '.join(arguments)}", self.agent.hubble("observe", *arguments).stdout
            )
        missing = [" → ".join(one[:2]) + f": {one[2]}" for one in sorted(wanted - seen)]
        self.screen.check(f"all of {len(wanted)} kinds of requests are there", [f"no flow {one}" for one in missing])

    def why(self) -> None:
        """A refused request is explained."""
        self.screen.step("Ask why", "Which rule judged it, who put that there and when.")
        flow = next(one for one in self._requests() if _essence(one) == ("client", "api", "DROPPED"))
        self.screen.command(f"cplane why {flow['uuid']}", self.agent.cplane("why", str(flow["uuid"])).stdout)
        found = self.agent.ask("why", str(flow["uuid"]))
        self.screen.check("denied by the policy", [] if found["verdict"] == "DENIED" else [str(found["verdict"])])

    def killed(self) -> None:
        """Requests are judged without the agent."""
        self.screen.step("Kill the agent (SIGKILL)", "Proxies go on with the rules that they have.")
        self.agent.kill()
        target, method, path, headers, _ = HTTP[0]
        allowed = self._in("client", *self._curl(target, method, path, headers, 4)).strip()
        refused = self._in("client", *self._curl(target, method, HTTP[1][2], headers, 4)).strip()
        said = produce(self.stage.pods["service2"].netns, "confluent", "topic1", "x", self._broker)
        self.screen.check(f"GET {path}: {allowed}", [] if allowed == "200" else ["200 was expected"])
        self.screen.check(f"GET {HTTP[1][2]}: {refused}", [] if refused == "403" else ["403 was expected"])
        self.screen.check(f"service2 produces to topic1: {said}", [] if said else ["it was taken"])

    def end(self) -> None:
        """Nothing is left. Raises WrongError."""
        self.screen.step("Clean up", "Proxies, namespaces, pins, cgroup and files.")
        self._held.close()
        self.screen.check("nothing is left", [f"{one} is still there" for one in self.stage.close()])

    @property
    def _broker(self) -> str:
        return f"{self.stage.pods['broker'].ipv4}:9092"

    def _curl(self, target: str, method: str, path: str, headers: Mapping[str, str], family: int) -> list[str]:
        address = self.stage.pods[target].address(family)
        host = f"[{address}]" if family == 6 else address
        said = [text for name, value in headers.items() for text in ("-H", f"{name}: {value}")]
        wanted = ["-s", "-g", "--path-as-is", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-X", method]
        return ["curl", *wanted, *said, f"http://{host}{path}"]

    def _in(self, name: str, *command: str) -> str:
        enter = ["nsenter", f"--net={self.stage.pods[name].netns.path}", "--"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False).stdout

    def _requests(self) -> list[dict[str, Any]]:  # Any: JSON
        found = self.agent.flows("--type", "l7", "--last", "2000")
        return [flow for flow in found if flow["l7"]["type"] == "REQUEST"]


def offline(screen: Screen) -> None:
    """The same requests, judged without sending them. Raises WrongError."""
    screen.step("Ask `cplane policy eval`", "The same policies and requests; nothing runs.")
    probes, wanted, shown = [], [], []
    for target, method, path, headers, may in HTTP:
        if ".." in path:
            continue  # what a proxy makes of such a path is its own affair
        http = {"method": method, "path": path, "headers": dict(headers)}
        probes.append({"from": "demo/client", "to": f"demo/{target}", "protocol": "TCP", "port": 80, "http": http})
        shown.append(f"{target}: {method} {path}{_shown(headers)}")
        wanted.append(may)
    for service, api, topic, may in KAFKA:
        kafka = {"apiKey": api, "topics": [topic]}
        probes.append({"from": f"demo/{service}", "to": "demo/broker", "protocol": "TCP", "port": 9092, "kafka": kafka})
        shown.append(f"{service}: {api} {topic}")
        wanted.append(may)
    for text, may, answer in zip(shown, wanted, _evaluated(probes), strict=True):
        found = answer["verdict"] == "ALLOWED"
        screen.check(f"{text}: {answer['verdict']}", [] if found is may else ["that is wrong"])


def _evaluated(probes: Iterable[object]) -> list[dict[str, Any]]:  # Any: JSON
    with tempfile.TemporaryDirectory() as folder:
        pods = Path(folder) / "pods.yaml"
        pods.write_text("\n---\n".join(map(_pod, PODS)))
        command = [str(BIN / "cplane"), "policy", "eval", "-f", str(POLICIES), "-f", str(pods), "--probes", "-"]
        given = "\n".join(map(json.dumps, probes))
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _pod(name: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "demo", "labels": {"app": name}},
            "spec": {"containers": [{"name": "it", "image": "it"}]},
        }
    )


def _shown(headers: Mapping[str, str]) -> str:
    return "".join(f" with {name}: {value}" for name, value in headers.items())


def _essence(flow: Mapping[str, Any]) -> tuple[str, str, str]:  # Any: JSON
    return flow["source"].get("pod_name", ""), flow["destination"].get("pod_name", ""), flow["verdict"]
