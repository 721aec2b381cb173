# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A program whose help groups its commands in sections."""

from typing import Any

import click

from syshaxd.system.terminal import ProgramGroup


class SectionedGroup(ProgramGroup):
    """A command group that lists its commands by section."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Has no commands yet: see `add_section`."""
        super().__init__(*args, **options)
        self._sections: dict[str, list[str]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Adds commands, shown in this order under `title`."""
        for command in commands:
            self.add_command(command)
            self._sections.setdefault(title, []).append(command.name or "")

    def list_commands(self, _context: click.Context) -> list[str]:
        """All commands, in the order of the sections."""
        return [name for names in self._sections.values() for name in names]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each section; the help column is aligned across all of them."""
        width = max(map(len, self.commands))
        for title, names in self._sections.items():
            with formatter.section(title):
                limit = formatter.width - formatter.current_indent - width - 2
                formatter.write_dl(
                    [(f"{name:<{width}}", self.commands[name].get_short_help_str(limit)) for name in names]
                )
