#!/bin/sh
# Installs the Debian packages of the commands that the tests run (redis-server, chromium, prometheus, nginx, and qemu's
# emulators) where this may be done, and says how to get them where not. The tests start their own servers on free ports,
# so those that a package starts are stopped.
set -eu
missing=""
for command in "$@"; do
    case $command in qemu-*) package=qemu-user ;; *) package=$command ;; esac
    command -v "$command" >/dev/null || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
how="install them (Debian and Ubuntu: apt-get install$missing) and run make test again"
command -v apt-get >/dev/null || { echo "The tests need$missing: $how" >&2; exit 1; }
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || { echo "The tests need$missing and this user may not install packages: $how" >&2; exit 1; }
    as_root="sudo -n"
fi
echo "Installing$missing for the tests"
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
for service in $missing; do
    $as_root service "$service" stop >/dev/null 2>&1 || true
done
