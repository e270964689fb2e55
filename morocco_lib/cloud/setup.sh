# Runs on the machine: bash -s -- FOLDER TORCH. Installs the project that was copied there, then lets it examine the machine.
set -euo pipefail
main() {
  cd "$1"
  torch=$2
  fit() {  # prints a Python that is new enough and can make an environment
    for name in python3.13 python3.12 python3.11 python3 "$(~/.local/bin/uv python find 3.11 2> /dev/null)"; do
      if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        command -v "$name"
        return
      fi
    done
    return 1
  }
  apt() { sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
  {
    if command -v cloud-init; then sudo cloud-init status --wait || true; fi  # it installs, too
    if ! command -v make || ! fit; then
      apt update
      apt install -y --no-install-recommends make git python3-venv
    fi
    if ! fit; then  # a distribution older than 2023
      apt install -y --no-install-recommends python3-pip
      python3 -m pip install --user "$(sed -n 's/^ *"\(uv==.*\)",$/\1/p' pyproject.toml)"
      ~/.local/bin/uv python install 3.11
    fi
    if command -v git && [ -e .morocco.bundle ]; then  # results then say which commit they are of
      git init --quiet && git fetch --quiet .morocco.bundle HEAD && git reset --quiet FETCH_HEAD || echo "no commit recorded"
    fi
    rm -f .morocco.bundle
    if [ -n "$torch" ]; then
      make setup-torch PYTHON="$(fit)" TORCH_VARIANT="$torch"
    else
      make setup PYTHON="$(fit)"
    fi
  } 1>&2
  .venv/bin/python -m morocco_lib doctor
}
main "$@"  # read as a whole before: what it runs may read stdin
