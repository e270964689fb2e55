"""The command line: parse, call, print. The verbs themselves are functions of the other packages."""

from morocco_lib.cli.entry import main as main
