"""What a shell completes: eval "$(rsr-ray --completion)" in bash, or in zsh after bashcompinit."""

import argparse
from collections.abc import Mapping

SCRIPT = """\
_rsr_ray() {{
  local now=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
      *) case "$now" in -*) case "${{COMP_WORDS[1]}}" in
{options}
      esac;; esac;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$now"))
}}
complete -o default -F _rsr_ray rsr-ray
"""


def completion(commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """A script for the shell: commands, options and their choices, and files elsewhere."""
    options, choices = [], []
    for name, parser in commands.items():
        known = [option for action in parser._actions for option in action.option_strings]
        options.append(f'        {name}) words="{" ".join(sorted(known))}";;')
        for action in parser._actions:
            # argparse itself knows no choices: settings are checked where YAML's are
            if isinstance(action.metavar, str) and action.metavar.startswith("{"):
                words = action.metavar.strip("{}").replace(",", " ")
                choices.append(f'      "{name} {action.option_strings[0]}") words="{words}";;')
    return SCRIPT.format(
        commands=" ".join(commands), choices="\n".join(choices), options="\n".join(options)
    )
