#!/bin/bash
# Brings everything that `make test` and `make bench` need: Debian packages (packaging/packages, roles build, demo and
# test), Go, a Python environment, and the client libraries, each built once into build/. Quick when it is all there.
#
#   tests/deps.sh            all of it
#   tests/deps.sh packages   only what apt brings
#
# Toolchains that are on PATH already are taken as they are; only what is missing comes from Debian. Versions of client
# libraries are pinned by the lock files beside them.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build
clients=$build/clients
here=$top/tests
go_least=1.23 # what tests/clients/go/go.mod asks for

say() { printf '%s\n' "$*" >&2; }
fail() { say "deps: $*"; exit 1; }

# --- Debian packages --------------------------------------------------------------------------------------

toolchains() { # roles of those that are not on PATH
    command -v node >/dev/null && command -v npm >/dev/null || echo node
    command -v javac >/dev/null || echo java
    command -v mvn >/dev/null || echo maven
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || fail "run this as root, or install sudo"
        sudo "$@"
    fi
}

install_packages() {
    # shellcheck disable=SC2046
    "$top/packaging/install-packages" build demo test $(toolchains)
    # Without its compiler one test of one step fails, and says so: no reason to leave out all others.
    "$top/packaging/install-packages" fuzz || say "no clang: make fuzz, in the step sanitized, is going to fail"
}

# What comes from a network is asked for again, and not waited for for ever.
again() { # COMMAND...
    local try
    for try in 1 2 3; do
        timeout --foreground 900 "$@" && return
        say "deps: failed, try $try of 3: $*"
    done
    return 1
}

# --- Go ---------------------------------------------------------------------------------------------------

go_is_enough() { # BINARY
    local version
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    [ "$(printf '%s\n' "$go_least" "${version#go}" | sort -V | head -n 1)" = "$go_least" ]
}

find_go() {
    local g
    for g in go /usr/lib/go-*/bin/go; do
        if go_is_enough "$g"; then
            command -v "$g"
            return 0
        fi
    done
    return 1
}

# Debian 13's Go is new enough. Debian 12 has one in its backports, which come from the archive that apt uses anyway, with
# lists of their own so that the system's apt does not hear of that suite.
install_go() {
    local candidate
    candidate=$(apt-cache policy golang-go | sed -n 's/ *Candidate: *\(2:\)*//p')
    if [ "$(printf '%s\n' "$go_least" "$candidate" | sort -V | head -n 1)" = "$go_least" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 golang-go >/dev/null
        return
    fi
    local apt=$build/backports mirror release
    mirror=$("$top/packaging/apt-mirror")
    release=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    mkdir -p "$apt/lists/partial"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$mirror" "$release" "$mirror" "$release-backports" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o "APT::Sandbox::User=root")
    say "Installing: golang-$go_least-go from $release-backports"
    as_root apt-get "${options[@]}" update >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends \
        -t "$release-backports" "golang-$go_least-go" >/dev/null
}

# --- client libraries ---------------------------------------------------------------------------------------

fresh() { # STAMP FILE...: is what STAMP stands for made from these files as they are now?
    local stamp=$1 sum
    shift
    sum=$(cat "$@" | sha256sum)
    [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ]
}

stamp() { # STAMP FILE...
    local stamp=$1
    shift
    cat "$@" | sha256sum >"$stamp"
}

make_python() {
    if ! fresh "$build/venv/.stamp" "$here/requirements.txt"; then
        say "Python: the test environment"
        rm -rf "$build/venv"
        /usr/bin/python3 -m venv "$build/venv"
        again "$build/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
        stamp "$build/venv/.stamp" "$here/requirements.txt"
    fi
    local old=$build/py/kafka-python-2.0.2
    if ! fresh "$build/py/.stamp" "$here/requirements-old.txt"; then
        rm -rf "$old"
        again "$build/venv/bin/pip" install -q --disable-pip-version-check --upgrade --target "$old" -r "$here/requirements-old.txt"
        stamp "$build/py/.stamp" "$here/requirements-old.txt"
    fi
}

make_node() {
    local dir=$clients/node sources=("$here/clients/node/package-lock.json" "$here"/clients/node/*.js)
    fresh "$dir/.stamp" "${sources[@]}" && return
    say "Node: kafkajs"
    mkdir -p "$dir"
    cp "$here/clients/node/"{package.json,package-lock.json,.npmrc,*.js} "$dir"
    again npm --prefix "$dir" ci --no-audit --no-fund --loglevel=error >&2
    stamp "$dir/.stamp" "${sources[@]}"
}

make_java() {
    local dir=$clients/java sources=("$here/clients/java/pom.xml" "$here/clients/java/Driver.java" "$here/clients/java/Writer.java")
    fresh "$dir/.stamp" "${sources[@]}" && return
    say "Java: kafka-clients and kafka-tools"
    rm -rf "$dir"
    mkdir -p "$dir/classes"
    again mvn -q -B -f "$here/clients/java/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$dir/lib" >&2
    javac -encoding UTF-8 -d "$dir/classes" -cp "$dir/lib/*" "$here"/clients/java/*.java
    stamp "$dir/.stamp" "${sources[@]}"
}

# Kafka Streams and Connect, and the application that runs on them: the Makefile knows when they are fresh.
make_ecosystem() {
    again make -s -C "$top" ecosystem-deps >&2
}

make_go() {
    local dir=$clients/go go
    fresh "$dir/.stamp" "$here"/clients/go/*.go "$here"/clients/go/go.{mod,sum} && return
    go=$(find_go) || { install_go; go=$(find_go) || fail "no Go $go_least after installing it"; }
    say "Go: franz-go, sarama, kafka-go"
    mkdir -p "$dir"
    (cd "$here/clients/go" && GOTOOLCHAIN=local again "$go" build -mod=readonly -o "$dir/driver" .)
    stamp "$dir/.stamp" "$here"/clients/go/*.go "$here"/clients/go/go.{mod,sum}
}

install_packages
[ "${1:-}" != packages ] || exit 0
mkdir -p "$build"
exec 9>"$build/.deps.lock"
flock 9
make_python
make_node
make_java
make_go
make_ecosystem
