#!/bin/sh
# Installs Debian's redis-server where this may be done, and says how to get it where not. The tests start their own
# servers on free ports, so the one that the package starts is stopped.
set -eu
how="install redis-server (Debian and Ubuntu: apt-get install redis-server; macOS: brew install redis) and run make test again"
command -v apt-get >/dev/null || { echo "The tests need a redis-server: $how" >&2; exit 1; }
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || { echo "The tests need a redis-server and this user may not install it: $how" >&2; exit 1; }
    as_root="sudo -n"
fi
echo "Installing redis-server for the tests"
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null
$as_root service redis-server stop >/dev/null 2>&1 || true
