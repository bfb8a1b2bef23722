#!/bin/bash
# Builds the broker of Mosquitto 2.1 on Debian 12 and prints the path of its binary (cached: build/mosquitto-2.1/mosquitto).
#
# The plugin is one binary for Mosquitto 2.0.11 to 2.1, so the tests need a 2.1 that Debian 12 does not have. Its source
# package comes from the archive that this machine's apt uses already, from the suite that carries 2.1; it is fetched
# with lists, sources and a cache of its own, so that the system's apt never hears of that suite. Signatures are
# checked by Debian's keyring. Only the broker is built, with what Debian 12 has: bundled picohttpparser and uthash, no
# HTTP API, no argon2, no systemd.
#
#   MOSQUITTO_SUITE=forky      the suite
#   OUT=DIRECTORY              where to build (build)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
suite=${MOSQUITTO_SUITE:-forky}
work=$(realpath -m "${OUT:-$top/build}")/mosquitto-2.1
binary=$work/mosquitto
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '%s\n' "$*" >&2; }
fail() { say "mosquitto-2.1: $*"; exit 1; }

mkdir -p "$work"
exec 9>"$work/lock"
flock 9 # two test runs at once: the second finds the first one's result

if [ -x "$binary" ]; then
    printf '%s\n' "$binary"
    exit 0
fi

"$top/packaging/install-packages" broker21 >&2
[ -r "$keyring" ] || fail "no keyring at $keyring (package debian-archive-keyring)"
mirror=$("$top/packaging/apt-mirror")

apt=$work/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$apt/sources.list"
options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
    -o "APT::Sandbox::User=$(id -un)" -o Acquire::Retries=3)

{
    apt-get "${options[@]}" update
    cd "$work"
    rm -rf source ./mosquitto_* ./mosquitto-*
    # shellcheck disable=SC2016
    apt-get "${options[@]}" source mosquitto
    mv ./mosquitto-[0-9]* source
} >"$work/fetch.log" 2>&1 || { tail -n 15 "$work/fetch.log" >&2; fail "could not fetch the source from suite $suite"; }

version=$(sed -n 's/^VERSION=//p' source/config.mk | head -n 1)
case $version in
    2.1.*) ;;
    *) fail "suite $suite has Mosquitto '$version', not 2.1" ;;
esac

flags=(WITH_DOCS=no WITH_HTTP_API=no WITH_ARGON2=no WITH_SYSTEMD=no WITH_SHARED_LIBRARIES=yes WITH_BUNDLED_DEPS=yes)
{
    make -C source/libcommon "${flags[@]}" -j2
    make -C source/src "${flags[@]}" -j2 mosquitto
} >"$work/build.log" 2>&1 || { tail -n 25 "$work/build.log" >&2; fail "could not build $version (all of it: $work/build.log)"; }

install -m 755 source/src/mosquitto "$binary.new"
mv "$binary.new" "$binary"
rm -rf source apt ./mosquitto_*
say "mosquitto-2.1: built $version"
printf '%s\n' "$binary"
