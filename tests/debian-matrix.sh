#!/bin/bash
# `make debian-matrix`: builds and tests on Debian 13 (RocksDB 9.10, Mosquitto 2.0.21), in a chroot of its own under
# build/trixie, made with debootstrap from the archive that this machine's apt uses, and kept for the next time.
#
#   make debian-matrix               build with warnings as errors, unit tests, integration in that broker (with
#                                    librdkafka; the other clients' libraries do not know what Debian is below them)
#   make debian-matrix FULL=1        the whole of `make test` but Docker and the broker of Mosquitto 2.1
#   SUITE=bookworm make debian-matrix   the same in a fresh Debian 12
#
# The tree is copied in. Everything runs in mount and process namespaces of its own: /proc, /dev and the rest are mounted
# there only, so nothing stays mounted and no process stays behind, however it ends. Needs root.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
suite=${SUITE:-trixie}
work=$top/build/$suite
root=$work/root
full=${FULL:-}

say() { printf '== %s\n' "$*"; }
fail() { printf 'debian-matrix: %s\n' "$*" >&2; exit 1; }

# --- inside: first the namespaces' mounts, then the chroot ---------------------------------------------------

if [ "${1:-}" = --inside ]; then
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o size=4g tmpfs "$root/tmp"
    # What this machine's package clients have been told (names, indexes) holds in there too; certificates are
    # copied below, because a package in there rewrites them.
    for path in /etc/resolv.conf /etc/hosts /etc/pip.conf "$HOME/.config/pip" "$HOME/.npmrc" "$HOME/.m2"; do
        [ -e "$path" ] || continue
        if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root$(dirname "$path")" && touch "$root$path"; fi
        mount --bind "$path" "$root$path"
    done
    exec env -u PIP_FIND_LINKS -u MAKEFLAGS -u MAKELEVEL PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TMPDIR=/tmp \
        chroot "$root" /bin/bash -euo pipefail -c "cd /culex && $2"
fi

inside() { # COMMAND: in the chroot, in /culex
    unshare --mount --propagation private --pid --fork --kill-child "$0" --inside "$1"
}

# --- the chroot ----------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || fail "needs root (debootstrap, chroot)"
"$top/packaging/install-packages" chroot
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || fail "another run is using $work"

if [ ! -e "$work/made" ]; then
    say "making a $suite chroot in $root"
    "$top/packaging/debian-root" "$suite" "$root" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 10 "$work/debootstrap.log" >&2; fail "debootstrap failed (all of it: $work/debootstrap.log)"; }
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    touch "$work/made"
fi

# Whom this machine trusts on top of Debian's list: first as a whole, for an archive behind TLS, then the Debian way.
mkdir -p "$root/etc/ssl/certs" "$root/usr/local/share/ca-certificates"
[ ! -d /usr/local/share/ca-certificates ] || cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs"

# The tree as it is now; what was built in there before is kept, and made anew where the sources are newer.
mkdir -p "$root/culex"
find "$root/culex" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
tar -C "$top" --exclude=./build --exclude=./demo-data --exclude=./.git -c . | tar -C "$root/culex" -x --no-same-owner

# --- build and test --------------------------------------------------------------------------------------------

say "$suite: $(. "$root/etc/os-release" && printf %s "$PRETTY_NAME"): packages"
inside 'packaging/install-packages build demo test && update-ca-certificates >/dev/null 2>&1'
inside 'dpkg-query -W -f "   \${Package} \${Version}\n" gcc librocksdb-dev mosquitto librdkafka-dev libevent-dev'

if [ -n "$full" ]; then
    inside 'tests/run deps build check codec torture integration crash sanitized'
    exit
fi
say "$suite: build, warnings as errors"
inside 'make -j"$(nproc)" WERROR=1 all tools >/tmp/build.log 2>&1 || { grep -E -A5 "error:|warning:|undefined reference" /tmp/build.log | head -n 60; exit 1; }'
say "$suite: unit tests"
inside 'make -j"$(nproc)" unit'
say "$suite: integration"
inside 'cmp -s tests/requirements.txt build/venv/made || { rm -rf build/venv && python3 -m venv build/venv &&
    build/venv/bin/pip install -q --retries 10 -r tests/requirements.txt && cp tests/requirements.txt build/venv/made; }'
rm -f "$root/culex/build/test-logs/seen/matrix.jsonl"
inside 'PYTHONDONTWRITEBYTECODE=1 build/venv/bin/python -m pytest -c tests/integration/pytest.ini --rootdir tests/integration -q -m broker -k "not java" tests/integration'
[ "${SEEN_STEP:-}" != matrix ] || cat "$root/culex/build/test-logs/seen/matrix.jsonl" >>"$top/build/test-logs/seen/matrix.jsonl"
printf 'debian-matrix: %s passed\n' "$suite"
