"""The demo, step by step; see scripts/demo."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

import requests
from screen import Screen, WrongError
from stage import PODS, KernelStage, MemoryStage, Stage, everything, stop_kept

from tests.support.agent import AgentFailed, differences
from tests.support.netns import Namespace
from tests.support.pods import BRIEF_S, PORT, Asked, Conversation

POLICY: Final = Path(__file__).with_name("policy.yaml")
ROOT_IS_FOR: Final = (
    "You are not root. Root is needed to make network namespaces and links between them (CAP_SYS_ADMIN, "
    "CAP_NET_ADMIN) and to load and attach eBPF programs (CAP_BPF). So this plays in memory: the same agent, log, CNI "
    "plugin and commands over a datapath that keeps the same tables and is asked about packets instead of being sent "
    "them. With root (sudo scripts/demo) real packets run through the kernel."
)
FLOWS_PATIENT_S: Final = 5.0


def allowed(asked: Asked) -> bool:
    """What policy.yaml says, in other words than the product's."""
    if asked.target != "backend":
        return True
    return asked.source == "frontend" and asked.protocol == "tcp"


class Story:
    """One run of the demo on a stage."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self.stage, self.screen, self.agent = stage, screen, stage.agent
        self.kept_open: Conversation | None = None
        self.cut: Conversation | None = None

    def play(self) -> None:
        """Every step up to the log; the stage stays. Raises WrongError, AgentFailed."""
        self.start()
        self.pods()
        self.open_house()
        self.policy()
        self.observed()
        self.why()
        self.killed()
        self.back()
        self.lifted()
        self.log()

    def start(self) -> None:
        """An agent runs."""
        where = f"in the network namespace {self.stage.name}-node, with its pins in /sys/fs/bpf/{self.stage.name}"
        self.screen.step("Start an agent", f"It runs {where if self.stage.real else 'on the memory datapath'}.")
        self.stage.open()
        took = self.agent.start()
        self.cplane("status")
        self.screen.check(f"it serves and is in sync, {took:.1f} s after its start (programs compiled, if it has none)")

    def pods(self) -> None:
        """Three pods are there."""
        self.screen.step("Create three pods through the CNI plugin", "Each is labelled app=<its name>.")
        for name in PODS:
            began = time.monotonic()
            reply = self.stage.add(name)
            took = (time.monotonic() - began) * 1000
            what = f"CNI ADD {name}: {', '.join(one['address'] for one in reply.document.get('ips', []))}"
            self.screen.check(f"{what} ({took:.0f} ms)", [] if reply.ok else [str(reply.document)])
        self.cplane("endpoint", "list")

    def open_house(self) -> None:
        """Everyone reaches everyone."""
        self.screen.step("No policy: everybody reaches everybody", self._how())
        self.reach(lambda _: True, "all connections and echo requests are answered")
        if isinstance(self.stage, KernelStage):
            pods = self.stage.pods
            self.kept_open = pods["frontend"].connect(pods["backend"].ipv4)
            self.cut = pods["visitor"].connect(pods["backend"].ipv6)
            both = self.kept_open.goes_on() and self.cut.goes_on()
            self.screen.check(
                "two connections are opened and stay open: frontend → backend, visitor → backend",
                [] if both else ["one of them is not answered"],
            )

    def policy(self) -> None:
        """The policy is in force."""
        self.screen.step("Apply a CiliumNetworkPolicy", "The backend takes TCP 8080 from the frontend, nothing else.")
        self.screen.command(f"cat {os.path.relpath(POLICY)}", POLICY.read_text())
        self.cplane("policy", "apply", "-f", str(POLICY), "--wait")
        self.reach(allowed, "frontend → backend TCP is allowed; visitor → backend TCP and all ICMP to it are denied")
        if self.cut is not None and self.kept_open is not None:
            self.screen.check(
                "the open connection of the frontend goes on", [] if self.kept_open.goes_on() else ["it does not"]
            )
            self.screen.check(
                "the open connection of the visitor is cut off", ["it goes on"] if self.cut.goes_on(BRIEF_S) else []
            )

    def observed(self) -> None:
        """Hubble shows what happened."""
        self.screen.step("See it with hubble", "Each of these flows must be there, for IPv4 and IPv6.")
        shown = self.agent.hubble("observe", "--to-pod", "demo/backend", "--last", "24").stdout
        self.screen.command("hubble observe --to-pod demo/backend --last 24", shown)
        wanted = {
            ("frontend", "TCP", "FORWARDED"): "frontend → backend TCP: forwarded",
            ("visitor", "TCP", "DROPPED"): "visitor → backend TCP: dropped, policy denied",
            ("frontend", "ICMP", "DROPPED"): "frontend → backend ICMP: dropped, policy denied",
        }
        seen: set[tuple[str, str, str, str]] = set()
        deadline = time.monotonic() + FLOWS_PATIENT_S
        needed = {(*key, family) for key in wanted for family in ("IPv4", "IPv6")}
        while not needed <= seen and time.monotonic() < deadline:
            seen |= {_essence(flow) for flow in self.agent.flows("--to-pod", "demo/backend", "--last", "1000")}
        self.screen.command("hubble observe --to-pod demo/backend --last 1000 -o json")
        for key, text in wanted.items():
            missing = [family for family in ("IPv4", "IPv6") if (*key, family) not in seen]
            self.screen.check(text, [f"no such flow for {family}" for family in missing])

    def why(self) -> None:
        """A flow that was dropped is explained."""
        self.screen.step(
            "Ask why", "Which rule dropped it, who put that rule there and when, what would have allowed it."
        )
        wanted = ("--from-pod", "demo/visitor", "--to-pod", "demo/backend", "--verdict", "DROPPED", "--protocol", "tcp")
        flow = self.agent.flows(*wanted, "--last", "1")[-1]
        uuid = str(flow["uuid"])
        self.screen.command(f"hubble observe {' '.join(wanted)} --last 1 -o json | jq -r .flow.uuid", uuid)
        self.cplane("why", uuid)
        found = self.agent.ask("why", uuid)
        changed = found["turned"] or {}
        wrong = [
            f"{what} is {is_}, not {should}"
            for what, is_, should in (
                ("the verdict", found["verdict"], "DENIED"),
                ("what changed it last", changed.get("object"), "policy CiliumNetworkPolicy/demo/backend"),
                ("the verdict before that", changed.get("before"), "ALLOWED"),
            )
            if is_ != should
        ]
        self.screen.check("denied by the policy, and allowed until somebody applied it", wrong)

    def killed(self) -> None:
        """Enforcement does without the agent."""
        if not self.stage.real:
            self.screen.step(
                "Kill the agent (SIGKILL)", "The memory datapath lives in it, so there is nobody to ask now."
            )
            self.agent.kill()
            self.screen.check("it is gone", ["it runs"] if self.agent.alive else [])
            return
        self.screen.step("Kill the agent (SIGKILL)", "What is in the kernel stays there and goes on.")
        self.screen.command(f"kill -9 {self.agent.pid}")
        self.agent.kill()
        self.reach(allowed, "new connections meet the same verdicts")
        self._still_open()

    def back(self) -> None:
        """The agent is back and agrees with the kernel."""
        self.screen.step("Start it again", "It adopts what it finds and makes it what its log says.")
        took = self.agent.start()
        self.cplane("status")
        wrong = [f"{table}: {rows}" for table, rows in differences(self.agent).items()]
        self.screen.check(f"in sync after {took:.1f} s, every table is what the log says it should be", wrong)
        self.reach(allowed, "the same verdicts")
        self._still_open()

    def lifted(self) -> None:
        """All is open again."""
        self.screen.step("Delete the policy", self._how())
        self.cplane("policy", "delete", "backend", "-n", "demo", "--wait")
        self.reach(lambda _: True, "everybody reaches everybody again")

    def log(self) -> None:
        """The log tells it all."""
        self.screen.step("Read the log", "Every decision, who asked for it, and that nobody has changed it since.")
        self.cplane("log")
        self.cplane("log", "verify")
        kinds = [json.loads(line)["type"] for line in self.agent.cplane("log", "-o", "json").stdout.splitlines()]
        wrong = [
            f"there is no {kind} in the log" for kind in ("policy.upserted", "policy.deleted") if kind not in kinds
        ]
        self.screen.check(f"{len(kinds)} events; the policy's coming and going are among them", wrong)

    def end(self) -> None:
        """The pods are deleted as a runtime would, and nothing is left. Raises WrongError."""
        self.screen.step("Clean up", "CNI DEL for each pod, then namespaces, pins, cgroup and files.")
        for name in PODS:
            reply = self.stage.delete(name)
            self.screen.check(f"CNI DEL {name}", [] if reply.ok else [str(reply.document)])
        left = self._links_left()
        self.agent.stop()
        left += self.stage.close()
        self.screen.check("nothing is left", [f"{one} is still there" for one in left])

    def cplane(self, *arguments: str) -> None:
        """Run a command of the agent's CLI and show it."""
        shown = " ".join(os.path.relpath(a) if a.startswith("/") else a for a in arguments)
        self.screen.command(f"cplane {shown}", self.agent.cplane(*arguments).stdout)

    def reach(self, rule: Callable[[Asked], bool], what: str) -> None:
        """Everybody tries to reach everybody, and it is as the rule says. Raises WrongError."""
        expected = {asked: rule(asked) for asked in everything()}
        found = self.stage.matrix(expected)
        self.screen.matrix(PODS, found)
        words = {True: "answered", False: "not answered"}
        wrong = [f"{a}: {words[found[a]]}, expected {words[expected[a]]}" for a in expected if found[a] != expected[a]]
        self.screen.check(f"{what} ({len(expected)} asked)", wrong)

    def _how(self) -> str:
        if self.stage.real:
            return f"TCP to port {PORT} and ICMP echo, over IPv4 and IPv6, between all of them."
        return f"`cplane probe` asks about TCP to port {PORT} and ICMP echo, over IPv4 and IPv6, between all of them."

    def _still_open(self) -> None:
        if self.kept_open is not None:
            wrong = [] if self.kept_open.goes_on() else ["it is not answered"]
            self.screen.check("the frontend's open connection goes on", wrong)

    def _links_left(self) -> list[str]:
        if not isinstance(self.stage, KernelStage):
            return []
        node: Namespace = self.stage.node
        return [f"link {name} on the node" for name in sorted(node.interfaces()) if name.startswith("lxc")]


def _essence(flow: Mapping[str, object]) -> tuple[str, str, str, str]:
    """Source pod, protocol, verdict and IP version of a flow."""
    source, layer3, layer4 = flow.get("source"), flow.get("IP"), flow.get("l4")
    assert isinstance(source, dict)
    assert isinstance(layer3, dict)
    assert isinstance(layer4, dict)
    protocol = "ICMP" if any(name.startswith("ICMP") for name in layer4) else next(iter(layer4), "")
    return str(source.get("pod_name")), protocol, str(flow.get("verdict")), str(layer3.get("ipVersion"))


def _tell_kept(stage: Stage) -> None:
    environment = stage.agent.environment
    lines = [
        *(f"export {name}={environment[name]}" for name in ("CPLANE_SERVER", "HUBBLE_SERVER")),
        f"export PATH={Path(sys.executable).parent}:$PATH",
        "cplane status; cplane endpoint list; cplane bpf policy list",
        f"cplane policy apply -f {POLICY} --wait",
        "hubble observe --follow",
    ]
    if stage.real:
        enter = f"nsenter --net=/run/netns/{stage.name}-visitor"
        lines += [
            f"{enter} ping -c 3 {stage.address('backend', 4)}",
            f"{enter} ping -c 3 {stage.address('backend', 6)}",
        ]
    else:
        lines += [f"cplane probe {stage.address('visitor', 4)} {stage.address('backend', 4)} --port {PORT}"]
    print("\nIt is left running. To play with it:\n")
    print("\n".join(f"    {line}" for line in lines))
    print(f"\nIts log: {stage.agent.output}\nTo stop it: scripts/demo --stop")


def _stop_on(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run(*, memory: bool, keep: bool) -> int:
    """The whole story; 0 if every check held, 1 if one did not."""
    screen = Screen()
    rootless = os.geteuid() != 0
    if rootless and not memory:
        screen.say(ROOT_IS_FOR)
    stage: Stage = MemoryStage() if memory or rootless else KernelStage()
    story = Story(stage, screen)
    kept = False
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_on)
    try:
        story.play()
        if keep:
            stage.keep()
            kept = True
            _tell_kept(stage)
        else:
            story.end()
        print(f"\n{screen.checks} checks held, in {screen.elapsed_s:.1f} s.")
    except (WrongError, AgentFailed) as failed:
        if not isinstance(failed, WrongError):
            print(f"\n{failed}")
        _explain(stage)
        print(f"\nNot as it should be: {str(failed).splitlines()[0]}", flush=True)
        return 1
    finally:
        if not kept:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # nothing may stop the cleaning
            stage.close()
    return 0


def run_requests() -> int:
    """What is said of requests; 0 if every check held, 1 if one did not."""
    screen = Screen()
    if os.geteuid() != 0:
        screen.say(requests.ROOT_IS_FOR)
        try:
            requests.offline(screen)
        except WrongError:
            return 1
        print(f"\n{screen.checks} checks held, in {screen.elapsed_s:.1f} s.")
        return 0
    stage = KernelStage()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_on)
    with ExitStack() as held:
        story = requests.Requests(stage, screen, held)
        try:
            story.play()
            story.end()
            print(f"\n{screen.checks} checks held, in {screen.elapsed_s:.1f} s.")
        except (WrongError, AgentFailed) as failed:
            _explain(stage)
            print(f"\nNot as it should be: {str(failed).splitlines()[0]}", flush=True)
            return 1
        finally:
            held.close()
            stage.close()
    return 0


def _explain(stage: Stage) -> None:
    if stage.agent.output.exists():
        print("\nThe agent's last words:")
        print("\n".join(f"    {line}" for line in stage.agent.told().decode(errors="replace").splitlines()[-12:]))


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Pods, a policy, and an agent that is killed.")
    parser.add_argument("what", nargs="?", choices=("l7",), help="l7: requests of HTTP and Kafka, and their flows")
    parser.add_argument("--keep", action="store_true", help="leave everything running, to play with it")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running")
    parser.add_argument("--memory", action="store_true", help="on the memory datapath, as without root")
    arguments = parser.parse_args()
    if arguments.stop:
        names = stop_kept()
        print("\n".join(f"stopped {name}" for name in names) if names else "nothing was left running")
        return 0
    try:
        if arguments.what == "l7":
            return run_requests()
        return run(memory=arguments.memory, keep=arguments.keep)
    except KeyboardInterrupt:
        print("\ninterrupted; everything has been cleaned up")
        return 130


if __name__ == "__main__":
    sys.exit(main())
