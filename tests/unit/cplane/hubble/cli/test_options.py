"""Options are read as Go's pflag reads them."""

import click
import pytest
from click.testing import CliRunner, Result

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.flags import filter_options
from cplane.hubble.cli.options import (
    Command,
    Group,
    Option,
    Switch,
    filters_of,
    global_options,
    server_options,
    settings_of,
    spelled,
)

SWITCH = Switch(["-f", "--follow"])
VALUED = Option(["-o", "--output"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--follow"], ["--follow"]),
        (["--follow=true", "-f=1"], ["--follow", "-f"]),
        (["--follow=false", "-f=F"], ["--no-follow", "--no-follow"]),
        (["-o=json"], ["-o", "json"]),
        (["--output=json"], ["--output=json"]),
        (["-ojson", "-o", "a=b"], ["-ojson", "-o", "a=b"]),
        (["--", "--follow=true"], ["--", "--follow=true"]),
        (["--other=x", "x=y"], ["--other=x", "x=y"]),
    ],
)
def test_values_behind_an_equals_sign(args: list[str], expected: list[str]):
    assert spelled([SWITCH, VALUED], args) == expected


def test_a_switch_is_on_or_off():
    with pytest.raises(Failed, match='invalid argument "maybe" for "-f, --follow" flag: it is neither true nor false'):
        spelled([SWITCH], ["--follow=maybe"])


@click.group(cls=Group)
@server_options
@global_options
def cli() -> None:
    """Explain."""


@cli.command(cls=Command)
@click.option("-f", "--follow", cls=Switch, section="One")
@click.option("-o", "--output", cls=Option, section="Two")
@filter_options
@server_options
@global_options
@click.pass_context
def show(ctx: click.Context, *, follow: bool, output: str | None) -> None:
    """Show what came."""
    click.echo(repr((follow, output, filters_of(ctx), dict(settings_of(ctx).given))))


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["show"], (False, None, [], {})),
        (
            ["show", "--pod", "a", "--not", "-n=b", "-4", "--pod=c", "--not=true", "-A"],
            (
                False,
                None,
                [
                    ("pod", "a"),
                    ("not", "true"),
                    ("namespace", "b"),
                    ("ipv4", "true"),
                    ("pod", "c"),
                    ("not", "true"),
                    ("all-namespaces", "true"),
                ],
                {},
            ),
        ),
        (["show", "-fo", "x", "--ipv4=v4"], (True, "x", [("ipv4", "true")], {})),
        (
            ["--server", "a", "-D", "--tls", "show", "--server", "b", "--tls=false", "--tls-ca-cert-files", "x,y"],
            (False, None, [], {"server": "b", "debug": True, "tls": False, "tls-ca-cert-files": ("x,y",)}),
        ),
    ],
)
def test_filters_keep_their_order_and_the_last_server_counts(args: list[str], expected: tuple[object, ...]):
    assert run(*args).output == f"{expected!r}\n"


def test_help_has_sections_and_shows_no_way_to_switch_off():
    shown = run("show", "--help").output
    assert shown.index("\nOne:") < shown.index("\nTwo:") < shown.index("\nFilters") < shown.index("\nServer:")
    assert "--no-" not in shown
    assert "-f, --follow" in shown
    assert "-A, --all-namespaces" in shown


def test_a_group_alone_explains_itself():
    done = run()
    assert (done.exit_code, "Commands:" in done.output) == (0, True)
