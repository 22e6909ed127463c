"""``completion``: the shell's script."""

from __future__ import annotations

import click

from .output import PROGRAM

__all__ = ["completion_verb"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_verb(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: wdkmutex-daemon completion bash > ~/.local/share/bash-completion/completions/wdkmutex-daemon
    zsh:  wdkmutex-daemon completion zsh > "${fpath[1]}/_wdkmutex-daemon"
    fish: wdkmutex-daemon completion fish > ~/.config/fish/completions/wdkmutex-daemon.fish
    """
    from click.shell_completion import get_completion_class

    from .app import COMPLETE, cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, PROGRAM, COMPLETE).source())
