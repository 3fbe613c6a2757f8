#!/bin/sh
# Compose: the files under compose/ -> whether a compose implementation takes them, and whether they keep their promises.
#
# The check is the one of `docker compose config`: by Docker where it is installed, else by the Compose project's own
# loader (compose-go), which needs Go and is built into target/. Each promise is also broken in a copy, which must then
# be refused: a check that cannot fail says nothing.
set -eu
cd "$(dirname "$0")/../compose"
target=${CARGO_TARGET_DIR:-../target}
mkdir -p "$target/compose"
target=$(cd "$target/compose" && pwd)
version=v2.16.2

if docker compose version >/dev/null 2>&1; then
    load() { for file; do set -- "$@" -f "$file"; shift; done; docker compose "$@" config --format json; }
elif ! [ -x "$target/compose-go-$version/cmd" ] && ! command -v go >/dev/null; then
    echo "neither Docker Compose nor Go is here: on Debian 13, apt-get install golang-go" >&2
    exit 3
else
    loader="$target/compose-go-$version/cmd"
    [ -x "$loader" ] || GOBIN=$(dirname "$loader") go install "github.com/compose-spec/compose-go/v2/cmd@$version"
    load() { "$loader" -format json "$@"; }
fi

# The model of these files as JSON -> 0 when it is what ollama.yaml says in its comments.
promises() {
    python3 -c '
import json, sys
model = json.load(sys.stdin)
services = model["services"]
ours, ollama = services["tierkeeper"], services["ollama"]
promises = {
    "ollama is published nowhere": not ollama.get("ports") and ollama.get("network_mode") is None,
    "every port is published on this machine only": all(port.get("host_ip") == "127.0.0.1" for port in ours["ports"]),
    "clients find us where they look": [(str(port["published"]), port["target"]) for port in ours["ports"]] == [("11434", 11434)],
    "the runners are visible": ours["pid"] == "service:ollama",
    "we can write only where we keep what we learn": ours["read_only"] and all(mount.get("read_only") or (mount["type"], mount["source"], mount["target"]) == ("volume", "state", "/var/lib/tierkeeper") for mount in ours["volumes"]),
    "we have no rights": ours["cap_drop"] == ["ALL"] and "no-new-privileges:true" in ours["security_opt"] and not ours.get("cap_add") and not ours.get("privileged"),
    "we are watched": ours["healthcheck"]["test"] == ["CMD", "tierkeeper", "healthcheck"],
    "replies may finish": ours["stop_grace_period"] in ("75s", "1m15s"),
    "ollama is there before us": "ollama" in ours["depends_on"],
    "volumes are declared": all(mount["source"] in model["volumes"] for one in services.values() for mount in one["volumes"] if mount["type"] == "volume"),
    "models are kept": any(mount["type"] == "volume" for mount in ollama["volumes"]),
}
broken = [promise for promise, kept in promises.items() if not kept]
print("\n".join("broken: " + promise for promise in broken), end="\n" if broken else "", file=sys.stderr)
sys.exit(bool(broken))
'
}

# In this folder, for the paths in it are meant from here.
trap 'rm -f broken.yaml broken.json' EXIT

# Whether a copy of ollama.yaml with this edit is refused.
refused() {
    sed "$1" ollama.yaml > broken.yaml
    ! cmp -s ollama.yaml broken.yaml || { echo "the edit changes nothing: $1" >&2; exit 1; }
    if load broken.yaml > broken.json 2>/dev/null && promises < broken.json 2>/dev/null; then
        echo "compose/ollama.yaml is taken although it was broken: $1" >&2
        exit 1
    fi
}

check() {
    load "$@" > "$target/model.json"
    promises < "$target/model.json"
    echo "compose: $* ok"
}

check ollama.yaml
check ollama.yaml webhook.yaml

refused 's/ports:/portz:/'
refused 's/cap_drop: \[ALL\]/cap_drop: ALL/'
refused 's/service:ollama/service:nobody/'
refused 's/"models:/"nowhere:/'
refused 's/127\.0\.0\.1:11434:11434/11434:11434/'
refused 's/    # No `ports`.*/    ports: ["11434"]/'
refused 's/:ro", /", /'
refused 's#"state:/var/lib/tierkeeper"#"./state:/var/lib/tierkeeper"#'
refused 's/read_only: true/read_only: false/'
echo "compose: 9 broken copies refused"
