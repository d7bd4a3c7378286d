# Makes one cluster of the six nodes, or introduces them to each other again: after a restart each has another address.
set -eu

REDISCLI_AUTH=$(cat /run/secrets/redis/password)
export REDISCLI_AUTH

ask() { redis-cli -h "redis-cluster-$1" "$2" "$3"; }
address() { getent hosts "redis-cluster-$1" | cut -d ' ' -f 1; }
is_ok() { for node in 1 2 3 4 5 6; do ask "$node" cluster info | grep -q cluster_state:ok || return 1; done; }

addresses=""
for node in 1 2 3 4 5 6; do addresses="$addresses $(address "$node")"; done
if ask 1 cluster info | grep -q cluster_slots_assigned:0; then
    nodes=""
    for address in $addresses; do nodes="$nodes $address:6379"; done
    redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
else
    for address in $addresses; do redis-cli -h redis-cluster-1 cluster meet "$address" 6379; done
fi
until is_ok; do sleep 1; done
