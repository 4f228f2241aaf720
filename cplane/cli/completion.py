"""`cplane completion`: what a shell must be told."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash: cplane completion bash > /etc/bash_completion.d/cplane
    zsh:  cplane completion zsh > "${fpath[1]}/_cplane"
    fish: cplane completion fish > ~/.config/fish/completions/cplane.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "click knows the three shells"
    root = context.find_root().command
    click.echo(found(root, {}, "cplane", "_CPLANE_COMPLETE").source())
