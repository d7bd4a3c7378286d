#!/bin/sh
# For a machine that reaches no image registry: builds images with the names of the official nginx and Prometheus ones from
# the python:3.11-slim that is there and Debian's packages, where those names are not there yet. What is tested with them
# was not tested with the official images; the test says so. forky: older releases of Debian have an nginx that cannot
# look up the replicas again (upstream's "resolve" came with 1.27.3).
set -eu

stand_in() {
    ! docker image inspect "$1" >/dev/null 2>&1 || return 0
    echo "Building a stand-in for $1 from Debian's package"
    docker build --quiet --tag "$1" --label ranktower.stand-in=true - >/dev/null
}

debian='RUN sed -i "/^$/,\$d; s/^Suites:.*/Suites: forky/" /etc/apt/sources.list.d/debian.sources && apt-get update -qq'
install='DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends'

stand_in nginx:1.28-alpine <<DOCKERFILE
FROM python:3.11-slim
$debian && $install nginx curl && useradd --system nginx
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
DOCKERFILE

stand_in prom/prometheus:v3.5.0 <<DOCKERFILE
FROM python:3.11-slim
$debian && $install prometheus && install -d -o nobody -g nogroup /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
DOCKERFILE
