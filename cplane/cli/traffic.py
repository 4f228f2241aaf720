"""What commands that ask about traffic share: its options, and what they say to a log or to an agent."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from cplane.cli.session import Callback

if TYPE_CHECKING:
    from cplane.pb.cplane.admin import v1 as pb
    from cplane.timetravel.traffic import Question

_OPTIONS = (
    click.option("--from", "source", metavar="END", help="Who talks: namespace/pod, an address, or node."),
    click.option("--to", "destination", metavar="END", help="To whom."),
    click.option("--port", metavar="PORT", help="Over what: 80/TCP, http/TCP, 53/UDP, ICMP:8."),
    click.option("--http", metavar="'GET /PATH'", help="What is asked, where a proxy judges requests."),
    click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of it; again for more."),
    click.option("--dns", metavar="NAME", help="The name that is asked for, where a proxy judges names."),
)


def traffic_options(callback: Callback) -> Callback:
    """The command takes `source`, `destination`, `port`, `http`, `headers` and `dns`."""
    for option in reversed(_OPTIONS):
        callback = option(callback)
    return callback


@dataclass(frozen=True)
class Traffic:
    """A question as it was typed; None: not at all."""

    source: str | None
    destination: str | None
    port: str | None
    http: str | None
    headers: tuple[str, ...]
    dns: str | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was typed."""
        return not self.headers and not any((self.source, self.destination, self.port, self.http, self.dns))

    def question(self) -> "Question":
        """The question. Ends the process with a usage error where it is none."""
        from cplane.timetravel.traffic import BadQuestion, question_of

        given = {"--from": self.source, "--to": self.destination, "--port": self.port}
        missing = [name for name, text in given.items() if not text]
        if missing:
            raise click.UsageError(f"{' and '.join(missing)} missing: say who talks to whom, over what")
        for name, text in {"--http": self.http, "--dns": self.dns}.items():
            if text is not None and not text.strip():  # as of a variable that is not set: packets alone may pass
                raise click.UsageError(f"{name} is empty: say what is asked for, or leave it out")
        try:
            return question_of(
                source=self.source or "",
                destination=self.destination or "",
                port=self.port or "",
                http=self.http or "",
                headers=self.headers,
                dns=self.dns or "",
            )
        except BadQuestion as error:
            raise click.UsageError(f"--{error}") from None

    def message(self) -> "pb.TrafficQuestion":
        """The question, for an agent."""
        from cplane.pb.cplane.admin import v1 as pb

        return pb.TrafficQuestion(
            from_=self.source or "",
            to=self.destination or "",
            port=self.port or "",
            http=self.http or "",
            headers=[*self.headers],
            dns=self.dns or "",
        )
