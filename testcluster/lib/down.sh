# shellcheck shell=bash
# Taking the cluster down, whole or half-made, and proving that nothing stays.

cluster_down() {
    if ! cluster_traces >/dev/null; then
        note "\"$CLUSTER\" is not up"
        return
    fi
    if down_quietly; then
        note "\"$CLUSTER\" is down: no process, mount, namespace or cgroup left"
        return
    fi
    note "still there:"
    cluster_traces >&2
    return 1
}

down_quietly() {
    # Namespaces have no names but their inode numbers, so these are noted before they go.
    local namespaces pid host
    namespaces=$(down_namespaces)
    for host in "${HOSTS[@]}"; do
        if pid=$(host_pid "$host"); then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    wait_until 10 down_killed || true
    network_remove
    cgroup_remove
    umount -R "$STATE" 2>/dev/null || wait_until 5 umount -R "$STATE" 2>/dev/null || true
    rmdir "$STATE" 2>/dev/null || true
    wait_until 5 down_gone "$namespaces"
}

# down_killed: kills what is in the cluster's cgroups, and is true when nothing is.
down_killed() {
    local pids
    mapfile -t pids < <(cgroup_pids)
    [ ${#pids[@]} -gt 0 ] || return 0
    kill -KILL "${pids[@]}" 2>/dev/null || true
    return 1
}

# down_namespaces: "mnt:[...]" and the like of every host.
down_namespaces() {
    local host pid
    for host in "${HOSTS[@]}"; do
        if pid=$(host_pid "$host"); then
            readlink "/proc/$pid/ns/"{mnt,pid,uts,ipc,cgroup,net} || true
        fi
    done | grep -vxFf <(readlink /proc/self/ns/*) || true
}

# down_gone NAMESPACES: no process is in one of them, and cluster_traces finds nothing.
down_gone() {
    ! cluster_traces >/dev/null || return 1
    [ -z "$1" ] || ! find /proc/[0-9]*/ns -type l -printf '%l\n' 2>/dev/null | grep -qxFf <(printf '%s\n' "$1")
}

# cluster_traces: lists everything of the cluster that exists; false if there is nothing.
cluster_traces() {
    local mount name found=1
    while read -r name; do
        echo "process $name $({ tr '\0' ' ' <"/proc/$name/cmdline"; } 2>/dev/null || true)" && found=0
    done < <(cgroup_pids)
    while read -r mount; do
        [ ! -d "$mount/$CGROUP_NAME" ] || { echo "cgroup $mount/$CGROUP_NAME" && found=0; }
    done < <(cgroup_hierarchies)
    for name in switch "${HOSTS[@]}"; do
        [ ! -e "/run/netns/$(netns "$name")" ] || { echo "network namespace $(netns "$name")" && found=0; }
    done
    # In any mount namespace of this machine.
    while read -r mount; do
        echo "mount $mount" && found=0
    done < <(cat /proc/[0-9]*/mountinfo 2>/dev/null | awk -v at="$STATE" '$5 == at || index($5, at "/") == 1 { print $5 }' | sort -u)
    [ ! -d "$STATE" ] || { echo "directory $STATE" && found=0; }
    return $found
}
