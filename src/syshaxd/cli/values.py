# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Commands that take `KEY VALUE ...`, where a value may start with a dash: `config KEY -1`."""

from collections.abc import Sequence

import click


class ValuesCommand(click.Command):
    """Treats a word as an option only if it is exactly one of its own; after `--` no word is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Passes click the options first, then all other words after `--`."""
        known = {
            name: param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
            for name in (*param.opts, *param.secondary_opts)
        }
        options: list[str] = []
        words: list[str] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                words += rest
                break
            name, given, _ = arg.partition("=") if arg.startswith("--") else (arg, "", "")
            option = known.get(name)
            if option is None:
                words.append(arg)
                continue
            options.append(arg)
            if not (given or option.is_flag):
                options += [value for value in (next(rest, None),) if value is not None]
        return super().parse_args(ctx, [*options, "--", *words])


def check_keys(words: Sequence[str]) -> None:
    """Raises click.UsageError for a key that looks like an option: it is probably a misspelt option."""
    for word in words[::2]:
        if word.startswith("-"):
            raise click.NoSuchOption(word)
