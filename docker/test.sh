#!/bin/bash
# `make docker-test`: builds the images, runs the compose file, and asks of it what a person would: publish over MQTT, read in
# a Kafka consumer group, restart each container, kill each with SIGKILL, and the broker's writer alone, and find the
# history whole.
#
# It uses the Docker that runs; where none does, it starts a daemon of its own (as root) with its data in build/docker, without
# touching the machine's firewall or bridges beyond one network that it removes again, and stops it at the end. Where the
# base image can neither be found nor pulled, it is made with debootstrap from the archive that apt uses here, and that
# same archive serves the builds. Containers, network and volumes carry a name of this run and go away with it.
#
#   KEEP=1 docker/test.sh      leaves everything running, and says how to look at it
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
base=debian:bookworm-slim
run=culex-test-$$
out=$top/build/docker
tag="test"
start_seconds=120 # for each container to say that it is ready; a loaded machine needs more than an idle one

say() { printf '== %3d s  %s\n' "$SECONDS" "$*"; }
checks=0
passed() {
    checks=$((checks + 1))
    say "ok: $*"
}
fail() { printf 'docker-test: FAILED: %s\ndocker: %d passed, 1 failed\n' "$*" "$checks"; exit 1; }

export MODE=release
"$top/packaging/install-packages" docker
mkdir -p "$out"
exec 9>"$out/lock"
flock -n 9 || { say "waiting for another run in $out"; flock 9; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/culex-docker.XXXXXX")

# --- a daemon ---------------------------------------------------------------------------------------------

daemon_pid=
daemon_start() {
    [ "$(id -u)" = 0 ] || fail "no Docker daemon can be reached, and only root can start one; run this as root, or start Docker"
    say "starting a Docker daemon of our own"
    # iptables stays as it is: containers on one bridge reach each other without it, builds use the host's
    # network, and published ports are carried by docker-proxy.
    setpriv --pdeathsig TERM dockerd --host "unix://$scratch/docker.sock" --pidfile "$scratch/docker.pid" --data-root "$out/data" \
        --exec-root "$scratch/exec" --bridge none --iptables=false --ip6tables=false --ip-masq=false \
        --ip-forward=false >"$out/dockerd.log" 2>&1 9>&- &
    daemon_pid=$!
    export DOCKER_HOST=unix://$scratch/docker.sock
    if ! grep -q -m 1 'API listen on' < <(timeout 120 tail -n +1 -s 0.1 --pid="$daemon_pid" -f "$out/dockerd.log" 2>/dev/null); then
        tail -n 15 "$out/dockerd.log" >&2
        fail "the Docker daemon did not start (all of it: $out/dockerd.log)"
    fi
}

compose=()
dc() { "${compose[@]}" -p "$run" -f "$top/docker/compose.yaml" "$@"; }

# shellcheck disable=SC2317 # called by the trap
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ -n "${KEEP:-}" ]; then
        say "kept: DOCKER_HOST=${DOCKER_HOST:-} ${compose[*]} -p $run -f docker/compose.yaml ps"
        exit $code
    fi
    if [ ${#compose[@]} -gt 0 ]; then
        if [ $code != 0 ]; then
            dc logs --tail 40 2>/dev/null >&2 || true
        fi
        docker rm -f "$run-tools" >/dev/null 2>&1 || true
        dc --profile try down -v --timeout 5 >/dev/null 2>&1 || true
    fi
    if [ -n "$daemon_pid" ]; then
        kill "$daemon_pid" 2>/dev/null || true
        wait "$daemon_pid" 2>/dev/null || true
        umount "$scratch"/exec/netns/* 2>/dev/null || true # it leaves its handle on the host's network namespace mounted
    fi
    rm -rf "$scratch"
    exit $code
}
trap finish EXIT INT TERM

timeout 30 docker info >/dev/null 2>&1 || daemon_start
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    compose=(docker-compose)
fi
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

# --- images -----------------------------------------------------------------------------------------------

# What the machine's apt is told, for the builds: sources of the image's release, proxies and date checks.
apt_sources=""
apt_conf=""
if [ "$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")" = bookworm ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    apt_sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$3 ~ /^bookworm/' | sort -u)
    apt_conf=$(apt-config dump | grep -E '^Acquire::(https?::[^ ]*[Pp]roxy|Check-Valid-Until|Check-Date) ' || true)
fi

if ! docker image inspect "$base" >/dev/null 2>&1 && ! timeout 120 docker pull -q "$base" >/dev/null 2>&1; then
    say "$base cannot be pulled here: making it with debootstrap"
    [ "$(id -u)" = 0 ] || fail "debootstrap needs root"
    "$top/packaging/debian-root" bookworm "$scratch/root" >"$out/debootstrap.log" 2>&1 ||
        { tail -n 10 "$out/debootstrap.log" >&2; fail "debootstrap failed (all of it: $out/debootstrap.log)"; }
    rm -rf "$scratch/root"/etc/apt/apt.conf.d/90machine "$scratch/root"/var/cache/apt/archives/*.deb "$scratch/root"/var/lib/apt/lists/* \
        "$scratch/root"/usr/share/{doc,info,locale,man}/*
    tar -C "$scratch/root" -c . | docker import --change 'CMD ["bash"]' - "$base" >/dev/null
    rm -rf "$scratch/root"
fi

for target in broker server tools; do
    say "building culex-$target"
    if ! docker build --network host -f "$top/docker/Dockerfile" --target "$target" -t "culex-$target:$tag" \
        --build-arg "APT_SOURCES=$apt_sources" --build-arg "APT_CONF=$apt_conf" "$top" >"$out/build-$target.log" 2>&1; then
        tail -n 30 "$out/build-$target.log" >&2
        fail "the image culex-$target was not built (all of it: $out/build-$target.log)"
    fi
done
docker images --format '   {{.Repository}} {{.Size}}' 'culex-*'

# --- run --------------------------------------------------------------------------------------------------

free_port() { # one that nobody listens on, from the range below the kernel's ephemeral ports
    local port
    for port in $(shuf -i 20000-30000 -n 50); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s' "$port"
            return
        fi
    done
    fail "no free port"
}
MQTT_PORT=$(free_port)
KAFKA_PORT=$(free_port)
export MQTT_PORT KAFKA_PORT
export CULEX_BROKER_IMAGE=culex-broker:$tag CULEX_SERVER_IMAGE=culex-server:$tag CULEX_TOOLS_IMAGE=culex-tools:$tag

container() { dc ps -q "$1"; }

# Waits until the container has said TEXT since it was started last.
await() { # SERVICE TEXT
    local id since
    id=$(container "$1")
    since=$(docker inspect -f '{{.State.StartedAt}}' "$id")
    grep -q -m 1 -- "$2" < <(timeout "$start_seconds" docker logs -f --since "$since" "$id" 2>&1) ||
        fail "$1 did not say '$2' within $start_seconds seconds"
}
await_broker() { await broker ' running$'; }
await_server() { # an answer, not a log line: what a client sees
    tools timeout "$start_seconds" bash -c 'until kcat -b server:19092 -L -m 2 >/dev/null 2>&1; do :; done' ||
        fail "the server did not answer within $start_seconds seconds"
}
tools() { docker exec -i "$run-tools" "$@"; }

published=0
publish() { # COUNT: the next COUNT numbers, spread over four topics, QoS 1; returns when all are acknowledged
    local from=$((published + 1)) to=$((published + $1)) t
    for t in 0 1 2 3; do
        seq $from $to | awk -v t=$t '$1 % 4 == t' |
            tools mosquitto_pub -h broker -q 1 -t "demo/$t" -l || fail "publishing $from to $to"
    done
    published=$to
}

# Every number once, under the key of its topic, in order within it.
check_history() { # WHEN
    local t end=$((SECONDS + start_seconds))
    while :; do
        tools timeout 120 kcat -b server:19092 -C -t demo -o beginning -e -q -f '%k %s\n' >"$scratch/history" ||
            fail "$1: the history cannot be read"
        # What was acknowledged is in the ring; the log follows.
        [ "$(wc -l <"$scratch/history")" -lt $published ] && [ $SECONDS -lt $end ] || break
    done
    for t in 0 1 2 3; do
        awk -v k="demo/$t" '$1 == k { print $2 }' "$scratch/history" >"$scratch/have"
        seq 1 $published | awk -v t=$t '$1 % 4 == t' >"$scratch/want"
        cmp -s "$scratch/have" "$scratch/want" ||
            fail "$1: demo/$t has $(wc -l <"$scratch/have") records of $(wc -l <"$scratch/want"), or not in order: $(diff "$scratch/have" "$scratch/want" | head -n 5 | tr '\n' ' ')"
    done
    [ "$(wc -l <"$scratch/history")" = $published ] || fail "$1: $(wc -l <"$scratch/history") records, $published published"
    passed "$1: all $published records are there, once and in order"
}

# The group must get exactly the numbers that were published since it read last.
consumed=0
check_group() { # WHEN
    local count=$((published - consumed))
    tools timeout 120 kcat -b server:19092 -G readers -X auto.offset.reset=earliest -c $count -q -f '%s\n' demo \
        >"$scratch/group" 2>"$scratch/group.err" || fail "$1: the group did not get its $count records: $(tail -n 3 "$scratch/group.err")"
    sort -n "$scratch/group" >"$scratch/have"
    seq $((consumed + 1)) $published >"$scratch/want"
    cmp -s "$scratch/have" "$scratch/want" ||
        fail "$1: the group got other records than those since its last commit: $(diff "$scratch/have" "$scratch/want" | head -n 5 | tr '\n' ' ')"
    consumed=$published
    passed "$1: the group got exactly the $count new ones"
}

say "starting broker and server"
dc up -d --no-build broker server >"$out/compose.log" 2>&1 || { cat "$out/compose.log" >&2; fail "compose could not start them"; }
docker run -d --name "$run-tools" --network "${run}_default" "culex-tools:$tag" sleep infinity >"$out/tools.log" 2>&1 ||
    { cat "$out/tools.log" >&2; fail "the container with the tools does not start"; }
await_broker
await_server

for service in broker server; do
    [ "$(docker exec "$(container "$service")" id -u)" = 1883 ] || fail "$service does not run as user 1883"
    passed "$service runs as user 1883"
done

publish 2000
check_history "at first"
check_group "at first"

say "restarting the server"
dc restart server >/dev/null 2>&1
await_server
publish 1000
check_history "server restarted"
check_group "server restarted"

say "restarting the broker"
dc restart broker >/dev/null 2>&1
await_broker
publish 1000
check_history "broker restarted"
check_group "broker restarted"

say "killing the server"
docker kill -s KILL "$(container server)" >/dev/null
publish 1000 # capture goes on without it
dc up -d --no-build server >/dev/null 2>&1
await_server
check_history "server killed"
check_group "server killed"

say "killing the broker's writer"
writer=$(docker exec "$(container broker)" pidof culex-writer) || fail "there is no writer beside the broker"
docker exec "$(container broker)" bash -c "kill -KILL $writer"
publish 1000 # they wait in the ring for the next one
check_history "writer killed"
check_group "writer killed"

say "killing the broker"
publish 1000
docker kill -s KILL "$(container broker)" >/dev/null # right after the last PUBACK
check_history "broker killed, and still down"
dc up -d --no-build broker >/dev/null 2>&1
await_broker
publish 1000
check_history "broker killed and back"
check_group "broker killed and back"

say "asking from the host's side, port $KAFKA_PORT, and for the server's health"
docker run --rm --network host "culex-tools:$tag" timeout 120 kcat -b "127.0.0.1:$KAFKA_PORT" -C -t demo -o beginning -c 1 -q >/dev/null ||
    fail "a client on the host cannot read"
passed "a client on the host can read"
server_id=$(container server)
grep -q -m 1 'health_status: healthy' < <(timeout "$start_seconds" docker events --filter "container=$server_id" \
    --since "$(docker inspect -f '{{.State.StartedAt}}' "$server_id")" --filter event=health_status 2>&1) ||
    fail "the server's health check does not pass: $(docker inspect -f '{{json .State.Health}}' "$server_id")"
passed "the server is healthy"

say "the profile with a device and a consumer"
dc --profile try up -d --no-build >"$out/compose.log" 2>&1 || { cat "$out/compose.log" >&2; fail "compose could not start the profile"; }
await consumer 'demo/[^ ]*/load '
passed "the consumer prints what the device publishes"

printf 'docker: %d passed, 0 failed\n' "$checks"
