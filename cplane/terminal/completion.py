"""`… completion`: what a shell must be told to complete the words of a program."""

import click

_TEXT = """Print the completion script of a shell.

\b
bash: {program} completion bash > /etc/bash_completion.d/{program}
zsh:  {program} completion zsh > "${{fpath[1]}}/_{program}"
fish: {program} completion fish > ~/.config/fish/completions/{program}.fish
powershell: {program} completion powershell >> $PROFILE
"""


def completion_command(program: str) -> click.Command:
    """The sub-command of the program of that name."""

    @click.command("completion", help=_TEXT.format(program=program))
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        from click.shell_completion import get_completion_class

        found = get_completion_class(shell)
        assert found is not None, "click knows the four shells"
        root = context.find_root().command
        click.echo(found(root, {}, program, f"_{program.upper()}_COMPLETE").source())

    return completion
