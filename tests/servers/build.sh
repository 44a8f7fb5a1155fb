#!/usr/bin/env bash
# Fills .servers/ (git-ignored) with the real servers that the tests run against:
#
#   prometheus3, promtool   built by Go from the module pinned in prometheus3/
#   prometheus2             Debian's or Ubuntu's package, unpacked, not installed
#   versitygw               S3: built by Go from the module pinned in versitygw/
#   azurite/                Azure: installed by npm from the packages pinned in azurite/
#   influxd                 InfluxDB 2: built by Go and cargo from the module pinned in influxdb/
#
# and, only when asked for by name (`build.sh thanos`), since no test needs it:
#
#   thanos                  what benchmarks/downsample.py measures beside us: Go, module in thanos/
#
# A server that cannot be had here is named, with the reason, and left out: that is no failure,
# the tests fall back to what is on PATH, to a container, or skip loudly.
#
# - A server is done when its stamp holds the checksum of what it was made from: its manifest and the
#   functions that make it. The stamp is written after the last of its files was renamed into place:
#   killed earlier, it is made again.
# - Nothing outside .servers/ changes but the caches of Go, cargo and npm: no package is installed, no
#   list updated.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/.servers
build_s_max=3600  # the longest, influxd's Go part, cold on 2 cores: 300 s; a slow machine gets 12 times that
download_s_max=600

say() { printf 'servers: %s\n' "$*"; }

# made_from FUNCTION FILE...: the checksum of what a server is made from.
made_from() {
  local make=$1
  shift
  { declare -f "$make" build_go apt_download && cat "$@"; } | sha256sum | cut -d ' ' -f 1
}

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

# build_go NAME ARGUMENT...: `go build` in the module NAME/, into $work/bin; if it fails, NAME is left out.
build_go() {
  local name=$1 needed log=$work/go.log
  shift
  needed=$(sed -n 's/^go //p' "$here/$name/go.mod")
  if ! command -v go >/dev/null; then
    say "no Go on PATH (needs $needed or newer): $name left out"
    return 1
  fi
  say "building $name (minutes when Go's caches are empty)"
  mkdir -p "$work/bin"
  if ! (cd "$here/$name" && GOFLAGS='' GOWORK=off timeout "$build_s_max" \
    go build -mod=readonly -trimpath -buildvcs=false -o "$work/bin/" "$@") >"$log" 2>&1; then
    say "go build failed, $name left out; $(go version 2>&1); its last lines:"
    grep -v '^go: downloading' "$log" | tail -n 10 | sed 's/^/  /'
    return 1
  fi
}

build_prometheus3() {
  local manifest=$here/prometheus3 version sum
  # Go's module v0.315.0 is what the release calls 3.15.0.
  version=$(sed -n 's|^require github.com/prometheus/prometheus v0\.\([0-9]\)\([0-9]*\)\.\([0-9]*\)$|\1.\2.\3|p' \
    "$manifest/go.mod")
  sum=$(made_from build_prometheus3 "$manifest/go.mod" "$manifest/go.sum")
  ! is_done prometheus3 "$sum" prometheus3 promtool || return 0
  begin prometheus3 prometheus3 promtool
  # remove_all_sd: without service discovery there is half as much to compile. No cgo: no C compiler needed.
  CGO_ENABLED=0 build_go prometheus3 -tags remove_all_sd \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$version" \
    github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool || return 0
  mv "$work/bin/promtool" "$out/promtool"
  mv "$work/bin/prometheus" "$out/prometheus3"
  finish prometheus3 "$sum"
  say "$(version_line "$out/prometheus3")"
}

build_versitygw() {
  local manifest=$here/versitygw version sum
  version=$(sed -n 's|^require github.com/versity/versitygw v||p' "$manifest/go.mod")
  sum=$(made_from build_versitygw "$manifest/go.mod" "$manifest/go.sum")
  ! is_done versitygw "$sum" versitygw || return 0
  begin versitygw versitygw
  CGO_ENABLED=0 build_go versitygw -ldflags "-s -w -X main.Version=$version" \
    github.com/versity/versitygw/cmd/versitygw || return 0
  mv "$work/bin/versitygw" "$out/versitygw"
  finish versitygw "$sum"
  say "versitygw $(version_line "$out/versitygw")"
}

build_thanos() {
  local manifest=$here/thanos version sum
  version=$(sed -n 's|^require github.com/thanos-io/thanos v||p' "$manifest/go.mod")
  sum=$(made_from build_thanos "$manifest/go.mod" "$manifest/go.sum")
  ! is_done thanos "$sum" thanos || return 0
  begin thanos thanos
  # The tags of its own releases.
  CGO_ENABLED=0 build_go thanos -tags netgo,slicelabels \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$version" \
    github.com/thanos-io/thanos/cmd/thanos || return 0
  mv "$work/bin/thanos" "$out/thanos"
  finish thanos "$sum"
  say "$(version_line "$out/thanos")"
}

# InfluxDB's query language is a Rust library, which cgo asks pkg-config for. InfluxData's own
# pkg-config builds it inside Go's cache, where an interrupted build leaves half a copy for the next;
# here cargo builds it first, in $work, and a pkg-config of four lines says how to use it. Where it lies
# is said to the linker alone: Go caches a package together with what pkg-config said then, and another
# checkout would look for the library in the folder of the first.
build_influxd() {
  local manifest=$here/influxdb version sum flux program lib=$work/flux/target/release
  version=$(sed -n 's|^require github.com/influxdata/influxdb/v2 ||p' "$manifest/go.mod")
  sum=$(made_from build_influxd "$manifest/go.mod" "$manifest/go.sum")
  ! is_done influxd "$sum" influxd || return 0
  begin influxd influxd
  for program in go cargo cc; do
    if ! command -v "$program" >/dev/null; then
      say "no $program on PATH (needs Go, Rust and a C compiler): influxd left out"
      return 0
    fi
  done
  if ! flux=$(exec 2>"$work/go.log" && cd "$manifest" && export GOFLAGS='-mod=readonly' GOWORK=off &&
    timeout "$download_s_max" go mod download github.com/influxdata/flux &&
    go list -m -f '{{.Dir}}' github.com/influxdata/flux); then
    say "Go could not fetch Flux, influxd left out; its last lines:"
    tail -n 5 "$work/go.log" | sed 's/^/  /'
    return 0
  fi
  say "building the Flux library of influxd (2 minutes or more)"
  # Its rust-toolchain.toml asks for an old Rust by name; it stays behind, any newer one will do.
  mkdir "$work/flux"
  cp -R "$flux/libflux" "$flux/stdlib" "$work/flux/"
  chmod -R u+w "$work/flux"
  # Lints of a newer Rust are no errors. Without link-time optimisation, at level 1: a third of the
  # memory and of the time, and the tests' queries are parsed in microseconds all the same.
  if ! (cd "$work/flux/libflux" && RUSTFLAGS='--cap-lints=warn' CARGO_TARGET_DIR="$work/flux/target" \
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 timeout "$build_s_max" \
    cargo rustc --release --locked -p flux --lib --crate-type staticlib) >"$work/cargo.log" 2>&1; then
    say "cargo failed, influxd left out; $(cargo --version 2>&1 | head -n 1); its last lines:"
    tail -n 10 "$work/cargo.log" | sed 's/^/  /'
    return 0
  fi
  cat >"$work/pkg-config" <<END
#!/bin/sh
for word; do
  case \$word in
    --cflags) echo "-I$work/flux/libflux/include" ;;
    --libs) echo "-L$lib -lflux -ldl -lm" ;;
  esac
done
END
  chmod +x "$work/pkg-config"
  # -p 2: its largest packages take a gigabyte each to compile.
  PKG_CONFIG="$work/pkg-config" CGO_ENABLED=1 build_go influxdb -p 2 -tags sqlite_foreign_keys,sqlite_json \
    -ldflags "-s -w -X main.version=$version -extldflags=-L$lib" \
    github.com/influxdata/influxdb/v2/cmd/influxd || return 0
  mv "$work/bin/influxd" "$out/influxd"
  finish influxd "$sum"
  say "$("$out/influxd" version 2>&1 | head -n 1)"
}

install_azurite() {
  local manifest=$here/azurite sum
  sum=$(made_from install_azurite "$manifest/package.json" "$manifest/package-lock.json")
  ! is_done azurite "$sum" azurite/node_modules/.bin/azurite-blob || return 0
  begin azurite
  rm -rf "$out/azurite"
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    say "no node and npm on PATH (azurite is a package of npm): azurite left out"
    return 0
  fi
  say "installing azurite"
  mkdir "$work/azurite"
  cp "$manifest/package.json" "$manifest/package-lock.json" "$work/azurite/"
  # No scripts: none of what it needs for files on loopback has to be compiled.
  if ! (cd "$work/azurite" && timeout "$download_s_max" npm ci --omit=dev --ignore-scripts --no-audit --no-fund) \
    >"$work/npm.log" 2>&1; then
    say "npm ci failed, azurite left out; node $(node --version); its last lines:"
    tail -n 10 "$work/npm.log" | sed 's/^/  /'
    return 0
  fi
  mv "$work/azurite" "$out/azurite"
  finish azurite "$sum"
  say "azurite $(version_line "$out/azurite/node_modules/.bin/azurite-blob")"
}

# apt_download OPTION...: fetches the package into the current folder; the reason goes to apt.log.
apt_download() {
  timeout "$download_s_max" apt-get "$@" -o APT::Sandbox::User="$(id -un)" -qq download prometheus \
    >>"$work/apt.log" 2>&1
}

unpack_prometheus2() {
  local sum found lists=$work/lists
  sum=$(made_from unpack_prometheus2 /dev/null)
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

case $* in
  '') makers=(build_prometheus3 unpack_prometheus2 build_versitygw install_azurite build_influxd) ;;
  thanos) makers=(build_thanos) ;;
  *)
    say "usage: build.sh [thanos]"
    exit 2
    ;;
esac
mkdir -p "$out"
exec 9>"$out/.lock"
if command -v flock >/dev/null; then flock 9; fi  # a second `make servers` waits, then finds all done

for make in "${makers[@]}"; do
  work=$out/.making
  rm -rf "$work"  # what a killed run left
  mkdir "$work"
  ("$make")
  rm -rf "$work"
done
