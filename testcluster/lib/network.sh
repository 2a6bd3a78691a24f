# shellcheck shell=bash
# A bridge in a network namespace of its own that leads nowhere else; every host hangs on it.

netns() { printf 'sealbatch-%s-%s\n' "$CLUSTER" "$1"; }

network_create() {
    local host switch
    switch=$(netns switch)
    ip netns add "$switch"
    ip -n "$switch" -batch - <<'EOF'
link set lo up
link add br0 type bridge
link set br0 up
EOF
    for host in "${HOSTS[@]}"; do
        ip netns add "$(netns "$host")"
        ip -n "$switch" -batch - <<EOF
link add $host type veth peer name eth0 netns $(netns "$host")
link set $host master br0 up
EOF
        ip -n "$(netns "$host")" -batch - <<EOF
link set lo up
addr add ${ADDRESS[$host]}/24 dev eth0
link set eth0 up
EOF
    done
}

network_remove() {
    local name
    for name in switch "${HOSTS[@]}"; do
        [ ! -e "/run/netns/$(netns "$name")" ] || ip netns del "$(netns "$name")" || true
    done
}

# Both directions, so that neither side waits for a timeout.
network_cut() { network_route replace "$@"; }
network_join() { network_route del "$@"; }

network_route() {
    local verb=$1 one=${2-} other=${3-}
    need_host "$one"
    need_host "$other"
    [ "$one" != "$other" ] || die "$one and $other are the same host"
    ip -n "$(netns "$one")" route "$verb" unreachable "${ADDRESS[$other]}"
    ip -n "$(netns "$other")" route "$verb" unreachable "${ADDRESS[$one]}"
}
