# Runs on the machine: bash -s -- FOLDER TORCH. Installs the project that was copied there, then lets it examine the machine.
set -euo pipefail
main() {
  cd "$1"
  torch=$2
  fit() {  # a Python that is new enough and can make an environment
    for name in python3.13 python3.12 python3.11 python3; do
      if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        command -v "$name"
        return
      fi
    done
    return 1
  }
  {
    if ! command -v make || ! fit; then
      sudo apt-get update
      sudo apt-get install -y make git python3-venv
    fi
    if ! fit; then  # a distribution older than 2024
      sudo apt-get install -y software-properties-common
      sudo add-apt-repository -y ppa:deadsnakes/ppa
      sudo apt-get install -y python3.11 python3.11-venv
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
main "$@" < /dev/null  # what is run reads none of this script
