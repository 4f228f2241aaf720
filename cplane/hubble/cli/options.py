"""Options as upstream's command has them, which Go's pflag reads: grouped, repeatable, with `=` where it likes.

click's own differ in three ways. A switch takes a value after `=` (`--tls=false`), a short option may have a `=`
too (`-o=json`), and filters count in the order in which they stand, because of `--not`.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final, TypeVar

import click

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.settings import GLOBAL_KEYS, SERVER_KEYS, Key, Settings

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

OLD: Final = "--experimental-"
_META: Final = "cplane.hubble.cli"
_ON: Final = frozenset({"1", "t", "true"})
_OFF: Final = frozenset({"0", "f", "false"})


class Option(click.Option):
    """An option that stands in a section of `--help`."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:  # noqa: ANN401  # click's own
        self.section = section
        super().__init__(*args, **kwargs)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help, without names that are there for old habits only."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        shown, *metavar = record[0].rsplit(" ", 1) if self.metavar else [record[0]]
        names = ", ".join(name for name in shown.split(", ") if not name.startswith(OLD))
        return " ".join([names, *metavar]), record[1]


class Switch(Option):
    """On or off: `--name`, `--name=true`, `--name=false`."""

    def __init__(self, declarations: Sequence[str], **kwargs: Any) -> None:  # noqa: ANN401  # click's own
        self.shown = [one for one in declarations if one.startswith("-")]
        self.off = f"--no-{self.shown[-1].removeprefix('--')}"
        named = [one for one in declarations if not one.startswith("-")]
        super().__init__([*self.shown[:-1], f"{self.shown[-1]}/{self.off}", *named], is_flag=True, **kwargs)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help, without the form that turns it off: that one is spelled `=false`."""
        record = super().get_help_record(ctx)
        return record and (", ".join(name for name in self.shown if not name.startswith(OLD)), record[1])


class Filter(Option):
    """A filter flag. Its value is in `filters_of`, in the order of the command line; `sole`: it takes none."""

    def __init__(self, declarations: Sequence[str], *, sole: bool = False, **kwargs: Any) -> None:  # noqa: ANN401  # click's own
        self.sole = sole
        self.flag = next(one for one in declarations if one.startswith("--"))
        form: dict[str, Any] = {"count": True} if sole else {"multiple": True}  # Any: as above
        super().__init__(declarations, expose_value=False, **form, **kwargs)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help, without the range that click shows for what may be repeated."""
        record = super().get_help_record(ctx)
        return record and (record[0], self.help or "")


class _Pflag(click.Command):
    """Reads arguments as pflag does, and shows options by section."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spell the arguments as click reads them, and note the filters in their order."""
        args = spelled(self.get_params(ctx), args)
        if not ctx.resilient_parsing and any(isinstance(one, Filter) for one in self.get_params(ctx)):
            values, _, order = self.make_parser(ctx).parse_args(list(args))
            _note_filters(ctx, values, order)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Command(_Pflag):
    """A command with such options."""


class Group(_Pflag, click.Group):
    """A group with such options; alone it explains itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # click's own
        super().__init__(*args, **{**kwargs, "invoke_without_command": True, "no_args_is_help": False})

    def invoke(self, ctx: click.Context) -> object:
        """Run the sub-command, or print the help where there is none."""
        found: object = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())
        return found


def spelled(params: Iterable[click.Parameter], args: Iterable[str]) -> list[str]:
    """The arguments with `--switch=false`, `--not=true` and `-o=json` as click spells them. Raises Failed."""
    forms: dict[str, Option] = {}
    for param in params:
        if isinstance(param, Option):
            forms.update(dict.fromkeys(param.opts, param))
    out: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            return [*out, arg, *rest]
        name, equals, value = arg.partition("=")
        option = forms.get(name) if equals else None
        if isinstance(option, Switch):
            out.append(_switched(option, name, value))
        elif isinstance(option, Filter) and option.sole:
            out.append(name)
        elif option is not None and not name.startswith("--"):
            out += [name, value]
        else:
            out.append(arg)
    return out


def _switched(option: Switch, name: str, value: str) -> str:
    if value.lower() not in _ON | _OFF:
        raise Failed(f'invalid argument "{value}" for "{", ".join(option.shown)}" flag: it is neither true nor false')
    return name if value.lower() in _ON else option.off


def _note_filters(ctx: click.Context, values: MutableMapping[str, Any], order: Iterable[click.Parameter]) -> None:
    """`values` maps names of parameters → what stood behind them, lists for what may be repeated."""
    queues = {name: iter(found) for name, found in values.items() if isinstance(found, list)}
    noted = filters_of(ctx)
    for param in order:
        if isinstance(param, Filter):
            noted.append((param.flag.removeprefix("--"), "true" if param.sole else next(queues[param.name])))


def filters_of(ctx: click.Context) -> list[tuple[str, str]]:
    """(flag, value) of the filters in the order in which they were given."""
    noted: list[tuple[str, str]] = ctx.meta.setdefault(f"{_META}.filters", [])
    return noted


def _given(ctx: click.Context) -> dict[str, object]:
    given: dict[str, object] = ctx.meta.setdefault(f"{_META}.given", {})
    return given


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this run, with the flags that were given before and behind the command."""
    return Settings(given=_given(ctx))


def note(ctx: click.Context, param: click.Parameter, value: object) -> object:
    """The flag counts as given: the callback of options that may come from elsewhere too."""
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE:
        _given(ctx)[param.name.replace("_", "-")] = value
    return value


def _setting(name: str, key: Key, section: str) -> Callable[[AnyCommand], AnyCommand]:
    flags = [*([key.short] if key.short else []), f"--{name}"]
    shared: dict[str, Any] = {"section": section, "expose_value": False, "callback": note, "help": key.help}
    if key.kind == "bool":
        return click.option(*flags, cls=Switch, default=None, **shared)
    shown = f"{key.help}  [default: {key.default}]" if key.kind in {"duration", "number"} else key.help
    metavar = {"text": "TEXT", "duration": "DURATION", "list": "FILES", "number": "PORT"}[key.kind]
    return click.option(
        *flags, cls=Option, multiple=key.kind == "list", metavar=metavar, default=None, **{**shared, "help": shown}
    )


def server_options(command: AnyCommand) -> AnyCommand:
    """The command takes what is needed to reach a server."""
    for name, key in reversed([*SERVER_KEYS.items()]):
        command = _setting(name, key, "Server")(command)
    return command


def global_options(command: AnyCommand) -> AnyCommand:
    """The command takes --config and -D."""
    for name, key in reversed([*GLOBAL_KEYS.items()]):
        command = _setting(name, key, "Global")(command)
    return command
