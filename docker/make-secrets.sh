# Makes the stack's passwords where there are none yet. The volumes are mounted by no one but who needs the password, so
# the files may be read by whatever user that container has.
set -eu

new_password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

write() { # content, file: aside and renamed
    printf '%s\n' "$1" >"$2.part"
    chmod 444 "$2.part"
    mv "$2.part" "$2"
}

[ -s /redis/password ] || write "$(new_password)" /redis/password
# All of it every time: an upgrade may change what stands here. requirepass is for clients, masterauth for replicas.
password=$(cat /redis/password)
write "requirepass $password
masterauth $password
appendonly yes
dir /data" /redis/server.conf

[ -s /grafana/password ] || write "$(new_password)" /grafana/password
