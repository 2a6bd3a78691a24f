# shellcheck shell=bash
# Each host has a subtree of its own, sealbatch-CLUSTER/HOST, in every cgroup hierarchy of the
# machine: version 1, version 2, or both at once (hybrid).

CGROUP_NAME=sealbatch-$CLUSTER

# cgroup_v1: "MOUNTPOINT OPTIONS" of every version 1 hierarchy, OPTIONS as mount -o takes them.
# mountinfo: the type follows the " - " separator (proc_pid_mountinfo(5)).
cgroup_v1() {
    awk '{ for (i = 7; i <= NF; i++) if ($i == "-") break
           if ($(i+1) != "cgroup" || $4 != "/") next
           n = split($(i+3), part, ","); kept = ""
           for (j = 1; j <= n; j++)
               if (part[j] !~ /^(rw|ro|xattr|clone_children|release_agent=.*)$/) kept = kept (kept == "" ? "" : ",") part[j]
           if (!seen[kept]++) print $5, kept }' /proc/self/mountinfo
}

# cgroup_v2: mount point of version 2, if there is one.
cgroup_v2() {
    awk '{ for (i = 7; i <= NF; i++) if ($i == "-") break
           if ($(i+1) == "cgroup2" && $4 == "/") { print $5; exit } }' /proc/self/mountinfo
}

# The version that has the controllers is the one Slurm must use.
cgroup_version() {
    if cgroup_v1 | grep -qE '[ ,]freezer(,|$)'; then echo 1; else echo 2; fi
}

# cgroup_hierarchies: mount points of all.
cgroup_hierarchies() {
    cgroup_v1 | cut -d ' ' -f 1
    cgroup_v2
}

cgroup_create() {
    local host=$1 mount dir
    while read -r mount; do
        for dir in "$mount/$CGROUP_NAME" "$mount/$CGROUP_NAME/$host"; do
            mkdir -p "$dir"
            # A new version 1 cpuset is empty and takes no process.
            [ ! -e "$dir/cpuset.cpus" ] || [ -e "$dir/cgroup.controllers" ] || {
                cat "${dir%/*}/cpuset.cpus" >"$dir/cpuset.cpus"
                cat "${dir%/*}/cpuset.mems" >"$dir/cpuset.mems"
            }
        done
    done < <(cgroup_hierarchies)
}

# cgroup_join HOST: moves the calling (sub)shell.
cgroup_join() {
    local mount
    while read -r mount; do
        if [ -d "$mount/$CGROUP_NAME/$1/enter" ]; then
            echo "$BASHPID" >"$mount/$CGROUP_NAME/$1/enter/cgroup.procs"
        else
            echo "$BASHPID" >"$mount/$CGROUP_NAME/$1/cgroup.procs"
        fi
    done < <(cgroup_hierarchies)
}

# cgroup_delegate HOST: under version 2, hands every controller down to the host, so that slurmd
# can make its own cgroups there. A cgroup cannot both hold processes and hand controllers down, so
# the host's processes move to a leaf, "host"; the root of its cgroup namespace stays where it was.
# slurmd refuses a cgroup that holds processes from outside its pid namespace: unshare and nsenter,
# which wait there for what they started, are in a second leaf, "enter".
cgroup_delegate() {
    [ "$(cgroup_version)" = 2 ] || return 0
    local top host leaf pid namespace controller level
    top=$(cgroup_v2)
    [ -n "$top" ] || die "this machine has no cgroup file system"
    host=$top/$CGROUP_NAME/$1
    mkdir -p "$host/host" "$host/enter"
    namespace=$(readlink "/proc/$(host_pid "$1")/ns/pid")
    while read -r pid; do
        leaf=enter
        [ "$(readlink "/proc/$pid/ns/pid")" != "$namespace" ] || leaf=host
        echo "$pid" >"$host/$leaf/cgroup.procs"
    done < <(cat "$host/cgroup.procs")
    for level in "$top" "$top/$CGROUP_NAME" "$host"; do
        while read -r controller; do
            echo "+$controller" >"$level/cgroup.subtree_control" 2>/dev/null || note "cgroup: $level does not hand down $controller"
        done < <(tr ' ' '\n' <"$level/cgroup.controllers")
    done
}

# cgroup_settle: sets SETTLE to a command that moves what runs under it, inside a host, from "enter" to
# "host" and then execs its arguments; it is empty where there are no such leaves.
cgroup_settle() {
    SETTLE=()
    # shellcheck disable=SC2016,SC2034 # for the shell on the host; used in exec.sh
    [ "$(cgroup_version)" = 1 ] || SETTLE=(sh -c 'echo 0 >/sys/fs/cgroup/host/cgroup.procs && exec "$@"' sh)
}

# cgroup_pids: every process of the cluster, on any host, in any hierarchy.
cgroup_pids() {
    local mount
    while read -r mount; do
        [ ! -d "$mount/$CGROUP_NAME" ] || find "$mount/$CGROUP_NAME" -name cgroup.procs -exec cat {} + 2>/dev/null
    done < <(cgroup_hierarchies) | sort -un
}

cgroup_remove() {
    local mount
    while read -r mount; do
        [ ! -d "$mount/$CGROUP_NAME" ] || find "$mount/$CGROUP_NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done < <(cgroup_hierarchies)
}
