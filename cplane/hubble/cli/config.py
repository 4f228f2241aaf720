"""`hubble config`: what is set, and what stands in the configuration file."""

from typing import Final

import click

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.options import Command, Group, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.settings import KEYS, Settings, read_file

_FOLDER_MODE: Final = 0o750
_KEPT: Final = tuple(key for key in KEYS if key != "config")  # what a file may hold


@click.group(cls=Group)
def config() -> None:
    """Show and change the configuration file."""


@config.command(cls=Command)
@server_options
@global_options
@click.pass_context
def view(ctx: click.Context) -> None:
    """Show all settings, wherever they come from."""
    write_out(_yaml(settings_of(ctx).shown()))


@config.command(cls=Command)
@click.argument("key", required=False)
@server_options
@global_options
@click.pass_context
def get(ctx: click.Context, key: str | None) -> None:
    """Show one setting, wherever it comes from; all of them without a KEY."""
    shown = settings_of(ctx).shown()
    if key is None:
        write_out(_yaml(shown))
        return
    write_out(_yaml(shown[_known(key)]))


@config.command("set", cls=Command)
@click.argument("key")
@click.argument("value", required=False)
@global_options
@click.pass_context
def set_(ctx: click.Context, key: str, value: str | None) -> None:
    """Put a value into the configuration file; without one, the default."""
    _write(settings_of(ctx), {_kept(key): value or ""})


@config.command(cls=Command)
@click.argument("key", required=False)
@global_options
@click.pass_context
def reset(ctx: click.Context, key: str | None) -> None:
    """Put the default into the configuration file, of one setting or of all."""
    _write(settings_of(ctx), dict.fromkeys(_KEPT if key is None else [_kept(key)], ""))


def _known(key: str) -> str:
    if key not in KEYS:
        raise Failed(f"unknown key: {key}")
    return key


def _kept(key: str) -> str:
    if _known(key) not in _KEPT:
        raise Failed("config: a file cannot say which file is meant; use --config or HUBBLE_CONFIG")
    return key


def _yaml(value: object) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=False, sort_keys=True)
    return text.removesuffix("...\n")


def _write(settings: Settings, changes: dict[str, str]) -> None:
    """The file has the changes, and all else that it had. An empty value is the default."""
    path = settings.path
    if path is None:
        raise Failed("config file undefined: there is no home folder; name a file with --config")
    try:
        content = read_file(path)
    except FileNotFoundError:
        content = {}
    for key, text in changes.items():
        content[key] = Settings(given={key: text} if text else {}, environment={}, agent_socket="").value(key)
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        path.write_text(_yaml(content))
    except OSError as error:
        raise Failed(f"configuration file {path}: {error.strerror or error}") from None
