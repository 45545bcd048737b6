# Sourced by dist_train.sh and dist_test.sh: one clear line for what torchrun would answer with twenty.

# check_processes PROCESSES PORT CONFIG [ENDPOINT]
check_processes() {
    if ! [ -f "$3" ]; then
        echo "error: config '$3' does not exist: check the path" >&2
        exit 1
    fi
    if ! [[ $1 =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
        echo "error: PROCESSES must be a positive whole number (or gpu, cpu, auto), got '$1'" >&2
        exit 1
    fi
    if ! [[ $2 =~ ^[0-9]{1,5}$ ]] || [ "$2" -lt 1 ] || [ "$2" -gt 65535 ]; then
        echo "error: PORT must be in 1 ... 65535, got '$2'" >&2
        exit 1
    fi
    if ! [[ ${MAX_RESTARTS:-0} =~ ^[0-9]+$ ]]; then
        echo "error: MAX_RESTARTS must be a whole number, got '$MAX_RESTARTS'" >&2
        exit 1
    fi
    if ! command -v "${PYTHON:-python}" >/dev/null; then
        echo "error: there is no ${PYTHON:-python}: activate the environment, or give PYTHON=.venv/bin/python" >&2
        exit 1
    fi
    # the first machine opens the port, the others connect to it; ENDPOINT is another place to meet
    local bind='import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", int(sys.argv[1])))'
    if [ "${NODE_RANK:-0}" = 0 ] && [ -z "${4:-}" ] && ! "${PYTHON:-python}" -c "$bind" "$2" 2>/dev/null; then
        echo "error: port $2 cannot be opened, another run may be using it: set PORT to a free one" >&2
        exit 1
    fi
}
