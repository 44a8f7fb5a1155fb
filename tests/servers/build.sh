#!/usr/bin/env bash
# Fills .servers/ (git-ignored) with the real servers that the tests run against:
#
#   prometheus3, promtool   built by Go from the module pinned in prometheus3/
#   prometheus2             Debian's or Ubuntu's package, unpacked, not installed
#
# A server that cannot be had here is named, with the reason, and left out: that is no failure,
# the tests fall back to what is on PATH, to a container, or skip loudly.
#
# - A server is done when its stamp holds the checksum of what it was made from. The stamp is written
#   after the last of its files was renamed into place: killed earlier, it is made again.
# - Nothing outside .servers/ changes but Go's own caches: no package is installed, no list updated.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/.servers
go_build_s_max=3600  # cold, 2 cores: 150 s; a slow network or machine gets 20 times that
download_s_max=600

say() { printf 'servers: %s\n' "$*"; }

checksum() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

# is_done NAME CHECKSUM FILE...
is_done() {
  local name=$1 sum=$2 file
  shift 2
  [ "$(cat "$out/$name.stamp" 2>/dev/null)" = "$sum" ] || return 1
  for file; do [ -x "$out/$file" ] || return 1; done
}

# begin NAME FILE...: what was made from another manifest is not taken for this one.
begin() {
  local name=$1 file
  shift
  rm -f "$out/$name.stamp"
  for file; do rm -f "${out:?}/$file"; done
}

# finish NAME CHECKSUM: the stamp comes last.
finish() {
  printf '%s\n' "$2" >"$work/stamp"
  mv "$work/stamp" "$out/$1.stamp"
}

# The first line of what `FILE --version` says, empty if it does not run.
version_line() { "$1" --version 2>&1 | head -n 1 || true; }

build_prometheus3() {
  local manifest=$here/prometheus3 version sum needed log=$work/go.log
  # Go's module v0.315.0 is what the release calls 3.15.0.
  version=$(sed -n 's|^require github.com/prometheus/prometheus v0\.\([0-9]\)\([0-9]*\)\.\([0-9]*\)$|\1.\2.\3|p' \
    "$manifest/go.mod")
  sum=$(checksum "$manifest/go.mod" "$manifest/go.sum" "${BASH_SOURCE[0]}")
  ! is_done prometheus3 "$sum" prometheus3 promtool || return 0
  begin prometheus3 prometheus3 promtool
  needed=$(sed -n 's/^go //p' "$manifest/go.mod")
  if ! command -v go >/dev/null; then
    say "no Go on PATH (needs $needed or newer): prometheus3 left out"
    return 0
  fi
  say "building Prometheus $version (minutes when Go's caches are empty)"
  mkdir "$work/bin"
  # remove_all_sd: without service discovery there is half as much to compile. No cgo: no C compiler needed.
  if ! (cd "$manifest" && CGO_ENABLED=0 GOFLAGS='' GOWORK=off timeout "$go_build_s_max" \
    go build -mod=readonly -trimpath -buildvcs=false -tags remove_all_sd \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$version" -o "$work/bin/" \
    github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool) >"$log" 2>&1; then
    say "go build failed, prometheus3 left out; $(go version 2>&1); its last lines:"
    grep -v '^go: downloading' "$log" | tail -n 10 | sed 's/^/  /'
    return 0
  fi
  mv "$work/bin/promtool" "$out/promtool"
  mv "$work/bin/prometheus" "$out/prometheus3"
  finish prometheus3 "$sum"
  say "$(version_line "$out/prometheus3")"
}

# apt_download OPTION...: fetches the package into the current folder; the reason goes to apt.log.
apt_download() {
  timeout "$download_s_max" apt-get "$@" -o APT::Sandbox::User="$(id -un)" -qq download prometheus \
    >>"$work/apt.log" 2>&1
}

unpack_prometheus2() {
  local sum found lists=$work/lists
  sum=$(checksum "${BASH_SOURCE[0]}")
  ! is_done prometheus2 "$sum" prometheus2 || return 0
  begin prometheus2 prometheus2
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "no apt-get here (prometheus2 is a package of Debian and Ubuntu): prometheus2 left out"
    return 0
  fi
  mkdir "$work/deb"
  cd "$work/deb"
  if ! apt_download; then
    # The machine's package lists are empty or stale: update a copy of our own, which needs no right to do so.
    mkdir -p "$lists/partial" "$work/cache/archives/partial"
    set -- -o Dir::State::Lists="$lists" -o Dir::Cache="$work/cache"
    timeout "$download_s_max" apt-get "$@" -o APT::Sandbox::User="$(id -un)" -qq update \
      >>"$work/apt.log" 2>&1 || true
    if ! apt_download "$@"; then
      say "apt-get could not fetch the package prometheus, prometheus2 left out; its last lines:"
      tail -n 5 "$work/apt.log" | sed 's/^/  /'
      return 0
    fi
  fi
  dpkg-deb -x prometheus_*.deb root
  found=$(version_line root/usr/bin/prometheus)
  case $found in
    'prometheus, version 2.'*) ;;
    *)
      say "the package prometheus of this system is no 2.x (${found:-it does not run}): prometheus2 left out"
      return 0
      ;;
  esac
  mv root/usr/bin/prometheus "$out/prometheus2"
  finish prometheus2 "$sum"
  say "$found"
}

mkdir -p "$out"
exec 9>"$out/.lock"
if command -v flock >/dev/null; then flock 9; fi  # a second `make servers` waits, then finds all done

for make in build_prometheus3 unpack_prometheus2; do
  work=$out/.making
  rm -rf "$work"  # what a killed run left
  mkdir "$work"
  ("$make")
  rm -rf "$work"
done
