# Runs on the machine: bash -s -- FOLDER. Starts JupyterLab unless it runs, and prints its socket and its token as JSON.
# It listens on a socket that only this user may open, and outlives the connection.
set -euo pipefail
main() {
  cd "$1"
  umask 077
  export JUPYTER_RUNTIME_DIR="$HOME/.morocco-lab" JUPYTER_PATH="$PWD/.venv/share/jupyter${JUPYTER_PATH:+:$JUPYTER_PATH}"
  mkdir -p "$JUPYTER_RUNTIME_DIR"
  chmod 700 "$JUPYTER_RUNTIME_DIR"
  socket=$JUPYTER_RUNTIME_DIR/lab.sock log=$JUPYTER_RUNTIME_DIR/lab.log
  running() { .venv/bin/python -m jupyter server list --json | grep -m 1 '"sock": "/'; }
  if running; then exit; fi
  rm -f "$socket"
  if [ "$(id -u)" = 0 ]; then root=--allow-root; fi
  setsid nohup .venv/bin/python -m jupyter lab --no-browser --ServerApp.sock="$socket" --ServerApp.sock_mode=0600 \
    --ServerApp.root_dir=. ${root:-} > "$log" 2>&1 < /dev/null &
  for _ in {1..120}; do
    if running; then exit; fi
    kill -0 $! 2> /dev/null || break
    sleep 0.5
  done
  tail -n 20 "$log" >&2
  exit 3
}
main "$@"  # read as a whole before: what it runs may read stdin
