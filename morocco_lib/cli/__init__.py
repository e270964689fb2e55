"""The command line: parse, call, print. The work is done by the other packages."""

from morocco_lib.cli.entry import main as main
