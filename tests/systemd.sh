#!/bin/bash
# `make systemd-test`: Culex as an operator has it. A Debian 12 of its own under build/systemd (debootstrap; kept for the
# next time) boots systemd in a container without a network, gets Culex by `make install DESTDIR=`, and then:
# streams in /etc/culex/culex.json, both services enabled, both killed, and the broker's writer alone, the server frozen until
# its watchdog fires, reloaded with a good and a wrong file, both stopped, uninstalled.
#
# Needs root. Where containers cannot be booted (inside many other containers) it says so and counts one skipped test.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
suite=bookworm
work=$top/build/systemd
root=$work/root
seconds=120 # for whatever is waited for

say() { printf '== %3d s  %s\n' "$SECONDS" "$*"; }
checks=0
passed() {
    checks=$((checks + 1))
    say "ok: $*"
}
fail() {
    printf 'systemd: FAILED: %s\n' "$*"
    [ -z "$leader" ] || m journalctl --no-pager -o short-monotonic -u culex-server -u mosquitto -n 40 || true
    printf 'systemd: %d passed, 1 failed\n' "$checks"
    exit 1
}

nspawn='' leader=''
finish() {
    local code=$?
    trap - EXIT INT TERM
    # The machine ends with its first process; one that nspawn has lost would go on for ever.
    for pid in ${leader:-${nspawn:+$(pgrep -P "$nspawn")}} $nspawn; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    exit $code
}
trap finish EXIT INT TERM

# --- the machine ----------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || fail "needs root (debootstrap, containers)"
"$top/packaging/install-packages" build systemd
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || { say "waiting for another run in $work"; flock 9; }

chrooted() { # COMMAND...: in the root, with the machine's network and names, in namespaces of its own
    unshare --mount --propagation private --pid --fork --kill-child bash -euc '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
        exec env PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"' \
        bash "$root" "$@"
}

made=$(cat "$0" "$top/packaging/packages" | sha256sum)
if [ "$(cat "$work/made" 2>/dev/null)" != "$made" ]; then
    say "making a $suite in $root"
    if ! {
        "$top/packaging/debian-root" "$suite" "$root" &&
            printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts" &&
            touch "$root/etc/resolv.conf" &&
            mapfile -t names < <("$top/packaging/install-packages" --list image-broker image-server demo) &&
            chrooted apt-get install -y -q -o Acquire::Retries=3 --no-install-recommends systemd systemd-sysv dbus procps make gcc "${names[@]}" &&
            chrooted apt-get clean
    } >"$work/made.log" 2>&1; then
        tail -n 15 "$work/made.log" >&2
        fail "the machine could not be made (all of it: $work/made.log)"
    fi
    printf '%s\n' "$made" >"$work/made"
fi

# As new: what an earlier run installed, captured and configured goes.
rm -rf "$root"/var/lib/{culex,mosquitto}/* "$root"/var/log/{culex,journal,mosquitto}/* "$root"/etc/culex "$root/culex"
rm -f "$root/etc/mosquitto/conf.d/culex.conf" "$root/etc/systemd/system/multi-user.target.wants/culex-server.service"
make -C "$top" -j"$(nproc)" MODE=release all >"$work/build.log" 2>&1 || fail "the build failed (all of it: $work/build.log)"
make -C "$top" MODE=release DESTDIR="$root" install >"$work/install.log" 2>&1 || fail "make install failed: $work/install.log"
mkdir -p "$root/culex"
tar -C "$top" -c Makefile packaging | tar -C "$root/culex" -x --no-same-owner

# Not registered with a machine manager, which need not run here; on its own network, which has a loopback only.
SYSTEMD_LOG_LEVEL=warning setpriv --pdeathsig TERM systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe \
    --directory="$root" --boot >"$work/boot.log" 2>&1 </dev/null 9>&- &
nspawn=$!
m() { # COMMAND...: in the machine
    nsenter -t "$leader" -m -u -i -n -p env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"
}
wait_for() { # WHAT COMMAND...
    local what=$1 end=$((SECONDS + seconds))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not within $seconds seconds"
        sleep 0.05
    done
}
booted() {
    leader=$(pgrep -P "$nspawn" -n systemd) && [[ $(m systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]
}
end=$((SECONDS + seconds))
until booted; do
    if ! kill -0 "$nspawn" 2>/dev/null || [ $SECONDS -ge $end ]; then
        tail -n 5 "$work/boot.log"
        printf 'systemd: a container cannot be booted here\nsystemd: 0 passed, 1 skipped\n'
        exit 0
    fi
    sleep 0.1
done
passed "it boots"

# --- Culex in it ----------------------------------------------------------------------------------------------

signal() { m bash -c 'kill -"$1" "$2"' bash "$@"; } # NAME PID
main_pid() { m systemctl show -p MainPID --value "$1"; }
writer_pid() { m pgrep -x culex-writer; }
other_pid() { # UNIT PID: is it active again, as another process?
    [ "$(main_pid "$1")" != "$2" ] && m systemctl is-active -q "$1"
}
other_writer() { # PID
    local pid
    pid=$(writer_pid) && [ "$pid" != "$1" ]
}
published=0
publish() {
    published=$((published + 1))
    m mosquitto_pub -t "plant/$published" -m "$published" -q 1 || fail "a publish was not acknowledged"
}
history() { # WHEN: every publish is there, once, in order
    local end=$((SECONDS + seconds)) have want
    want=$(seq "$published")
    until have=$(m timeout 60 kcat -b localhost -t plant -C -e -q -f '%s\n' 2>"$work/kcat.log") && [ "$have" = "$want" ]; do
        [ $SECONDS -lt $end ] || fail "$1: the history has '$(tr '\n' ' ' <<<"$have")', not 1 to $published"
    done
    passed "$1: the history is whole"
}

cat >"$root/etc/culex/culex.json" <<'JSON'
{
  "streams": [ { "name": "plant", "filters": ["plant/#"], "partitions": 1 } ],
  "server": { "listeners": "PLAINTEXT://localhost:9092", "log.file": "/var/log/culex/server.log" }
}
JSON
m cp /usr/share/doc/culex/examples/mosquitto-culex.conf /etc/mosquitto/conf.d/culex.conf
# Long enough to be fed on a slow machine, and short enough to see that it bites.
mkdir -p "$root/etc/systemd/system/culex-server.service.d"
printf '[Service]\nWatchdogSec=5\n' >"$root/etc/systemd/system/culex-server.service.d/test.conf"
m systemctl daemon-reload
m systemctl enable --now --quiet culex-server || fail "the server does not start before the broker has captured"
m systemctl restart mosquitto || fail "Mosquitto does not start with the plugin"
publish
history "both enabled"
m grep -q ' ready ' /var/log/culex/server.log || fail "nothing in log.file"
passed "log.file is written"

for unit in culex-server mosquitto; do
    pid=$(main_pid $unit)
    signal KILL "$pid"
    [ $unit = mosquitto ] || publish # capture goes on without the server
    wait_for "$unit is started again" other_pid $unit "$pid"
    publish
    history "$unit killed"
done

broker=$(main_pid mosquitto)
pid=$(writer_pid) || fail "there is no writer beside the broker"
signal KILL "$pid"
publish # it waits in the ring for the next writer
wait_for "the writer is started again" other_writer "$pid"
publish
history "the broker's writer killed"
[ "$(main_pid mosquitto)" = "$broker" ] || fail "the broker was restarted with its writer"

pid=$(main_pid culex-server)
signal STOP "$pid"
wait_for "the watchdog ends a frozen server" other_pid culex-server "$pid"
m journalctl -u culex-server | grep -q 'Watchdog timeout' || fail "it was not the watchdog"
publish
history "frozen, and ended by the watchdog"

pid=$(main_pid culex-server)
mv "$root/var/log/culex/server.log" "$root/var/log/culex/server.log.1"
m systemctl reload culex-server || fail "reload failed"
wait_for "the log is reopened" m test -s /var/log/culex/server.log
sed -i.good 's/"filters"/"filter"/' "$root/etc/culex/culex.json"
if m systemctl reload culex-server 2>/dev/null; then
    fail "a reload of a wrong configuration did not fail"
fi
m journalctl -u culex-server | grep -q 'is not known; did you mean "filters"?' || fail "the mistake is not named"
publish
history "a reload of a wrong configuration"
[ "$(main_pid culex-server)" = "$pid" ] || fail "the server was restarted by a reload"

if m systemctl restart culex-server 2>/dev/null; then
    fail "it started with a wrong configuration"
fi
[ "$(m systemctl is-failed culex-server)" = failed ] || fail "a wrong configuration is tried again and again"
mv "$root/etc/culex/culex.json.good" "$root/etc/culex/culex.json"
m systemctl start culex-server
history "the configuration is right again"

# How long a stop takes; the best of five, for others may have the machine.
stop_within() { # MS UNIT
    local began try
    for try in 1 2 3 4 5; do
        [ $try = 1 ] || m systemctl start "$2"
        began=${EPOCHREALTIME/./}
        m systemctl stop "$2"
        took_ms=$(((${EPOCHREALTIME/./} - began) / 1000))
        [ "$(m systemctl show -p Result --value "$2")" = success ] || fail "stopping $2 was not a success"
        [ $took_ms -ge "$1" ] || return 0
    done
    fail "stopping $2 took $took_ms ms and more, five times"
}
stop_within 2000 culex-server
passed "stopped in $took_ms ms"

publish
stop_within 5000 mosquitto
writer_pid >/dev/null && fail "the broker has left its writer"
passed "the broker stopped in $took_ms ms, and its writer with it"

m systemctl start culex-server
history "served without the broker"
m systemctl start mosquitto
publish
history "the broker started again"
server=$(pgrep -P "$leader" -x culex-server)
m make -C /culex CC=gcc uninstall >"$work/uninstall.log" 2>&1 || fail "make uninstall failed: $work/uninstall.log"
grep -q '/etc/mosquitto/conf.d/culex.conf' "$work/uninstall.log" || fail "uninstall does not name what loads the plugin"
kill -0 "$server" 2>/dev/null && fail "the server still runs"
m systemctl cat culex-server >/dev/null 2>&1 && fail "the unit is still there"
left=$(m find /usr /etc/systemd/system -name '*culex*' ! -path '*.service.d*')
[ -z "$left" ] || fail "uninstall left $left"
[ "$(m find /var/lib/culex/captured -type f | wc -l)" -gt 0 ] || fail "uninstall took the data"
passed "uninstalled; the data is still there"

printf 'systemd: %d passed, 0 failed\n' "$checks"
