# shellcheck shell=bash
# Bringing hosts up. On this machine a host is: $STATE/hosts/NAME (its file system's upper layer,
# its log, the id of its process 1), a cgroup subtree, a network namespace and that process.

cluster_up() {
    local proctrack=${SEALBATCH_PROCTRACK:-cgroup} host began=$EPOCHREALTIME
    while [ $# -gt 0 ]; do
        case $1 in
            --proctrack) proctrack=${2-} && shift ;;
            --proctrack=*) proctrack=${1#*=} ;;
            *) die "up: unknown argument \"$1\"" ;;
        esac
        shift
    done
    case $proctrack in cgroup | linuxproc) ;; *) die "up: --proctrack takes cgroup or linuxproc, not \"$proctrack\"" ;; esac

    check_machine
    install_host_packages
    provision_once
    mkdir -p "$REPO/bin"
    # What a running cluster must match to be left as it is.
    local config
    config="$PROVISION $proctrack $REPO/bin $(stat -c %d:%i "$REPO/bin")"
    # shellcheck disable=SC2153 # STATE is from common.sh
    if [ "$(cat "$STATE/config" 2>/dev/null || true)" = "$config" ] && cluster_healthy; then
        note "\"$CLUSTER\" is up"
        return
    fi
    if cluster_traces >/dev/null; then
        note "what there is of \"$CLUSTER\" is not what is wanted or not whole: starting afresh"
        down_quietly || die "could not remove what was left: see testcluster/cluster down"
    fi

    mkdir -p "$STATE"
    mount -t tmpfs -o "mode=755,size=${SEALBATCH_STATE_SIZE:-75%}" "sealbatch-$CLUSTER" "$STATE"
    share_create
    slurm_configure "$proctrack"
    network_create
    for host in "${HOSTS[@]}"; do
        host_files "$host"
        cgroup_create "$host"
        host_start "$host"
    done
    for host in "${HOSTS[@]}"; do
        wait_until 60 host_ready "$host" || die "$host did not start: $(tail -n 5 "$STATE/hosts/$host/init.log")"
        cgroup_delegate "$host"
    done
    slurm_start
    echo "$config" >"$STATE/config"
    note "\"$CLUSTER\" is up in $(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s (proctrack/$proctrack, cgroup v$(cgroup_version))"
}

# check_machine: says what is missing now rather than letting a job fail on it later.
check_machine() {
    local type
    modprobe -a fuse overlay bridge veth 2>/dev/null || true # or built in
    for type in fuse overlay tmpfs; do
        grep -qw "$type" /proc/filesystems || die "this kernel has no $type file system (modprobe $type)"
    done
    if [ "$(cat /proc/sys/user/max_user_namespaces)" = 0 ] || [ "$(cat /proc/sys/kernel/unprivileged_userns_clone 2>/dev/null || echo 1)" = 0 ]; then
        die "unprivileged user namespaces are off: set user.max_user_namespaces and kernel.unprivileged_userns_clone by sysctl"
    fi
    [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null || echo 0)" = 0 ] ||
        die "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
}

# passwd_field USER FIELD: from the cluster's user table (3 uid, 4 gid, 6 home), not this machine's.
passwd_field() { awk -F: -v name="$1" -v field="$2" '$1 == name { print $field; found = 1 } END { exit !found }' "$PROVISION/rootfs/etc/passwd"; }

# share_create: /home and /scratch of login and the compute nodes.
share_create() {
    local user
    mkdir -p "$STATE/shared/home" "$STATE/shared/scratch"
    install -d -m 2770 -o 0 -g 3001 "$STATE/shared/scratch/project_1"
    # A file system of its own that is soon full.
    mkdir "$STATE/shared/scratch/small"
    mount -t tmpfs -o mode=2770,gid=3001,size=28m "sealbatch-$CLUSTER" "$STATE/shared/scratch/small"
    for user in alice bob mallory; do
        user_home "$STATE/shared/home" "$user"
        user_file "$user" 600 "$PROVISION/keys/$user.pub" "$STATE/shared/home/$user/.ssh/authorized_keys"
    done
}

user_home() {
    install -d -m 700 -o "$(passwd_field "$2" 3)" -g "$(passwd_field "$2" 4)" "$1/$2" "$1/$2/.ssh"
}

user_file() {
    install -m "$2" -o "$(passwd_field "$1" 3)" -g "$(passwd_field "$1" 4)" "$3" "$4"
}

# host_files HOST: collects what is the host's own under files/, which host-init.sh copies in.
host_files() {
    local host=$1 files=$STATE/hosts/$1/files other
    mkdir -p "$files/etc"
    echo "$host" >"$files/etc/hostname"
    {
        echo '127.0.0.1 localhost'
        for other in "${HOSTS[@]}"; do echo "${ADDRESS[$other]} $other"; done
    } >"$files/etc/hosts"
    : >"$files/etc/resolv.conf"
    case $host in
        laptop) laptop_files "$files" ;;
        login)
            mkdir -p "$files/etc/ssh"
            for other in ed25519 ecdsa rsa; do
                install -m 600 "$PROVISION/keys/host_$other" "$files/etc/ssh/ssh_host_${other}_key"
                install -m 644 "$PROVISION/keys/host_$other.pub" "$files/etc/ssh/ssh_host_${other}_key.pub"
            done
            slurm_files "$files"
            ;;
        cn*)
            slurm_files "$files"
            [ "$host" != cn3 ] || suid_files "$files"
            ;;
    esac
}

# laptop_files DIR: the researcher's own machine, with the private keys and its own /home. mallory
# has not met the login node yet.
laptop_files() {
    local user type
    for type in ed25519 ecdsa rsa; do
        echo "login,${ADDRESS[login]} $(cut -d ' ' -f 1,2 "$PROVISION/keys/host_$type.pub")"
    done >"$STATE/known_hosts"
    mkdir -p "$1/home"
    for user in alice bob mallory; do
        user_home "$1/home" "$user"
        user_file "$user" 600 "$PROVISION/keys/$user" "$1/home/$user/.ssh/id_ed25519"
        user_file "$user" 644 "$PROVISION/keys/$user.pub" "$1/home/$user/.ssh/id_ed25519.pub"
        [ "$user" = mallory ] || user_file "$user" 644 "$STATE/known_hosts" "$1/home/$user/.ssh/known_hosts"
    done
}

# suid_files DIR: makes Debian's apptainer the set-uid one that its authors package as
# apptainer-suid: that is the same starter under another name, with another mode.
suid_files() {
    local starter
    starter=$(cd "$PROVISION/rootfs" && echo usr/lib/*/apptainer/bin/starter)
    install -D -m 4755 "$PROVISION/rootfs/$starter" "$1/$starter-suid"
}

# host_start HOST: in the background. setsid and the closed descriptors let it outlive this command.
host_start() {
    local host=$1 dir=$STATE/hosts/$1 share='' bin='' images=''
    case $host in login | cn*) share=$STATE/shared ;; esac
    case $host in laptop | login | keys) bin=$REPO/bin ;; esac
    case $host in laptop) images=$PROVISION/images ;; esac
    (
        cgroup_join "$host"
        exec setsid nsenter --net="/run/netns/$(netns "$host")" \
            unshare -m -u -p -i -C -f --kill-child --propagation private \
            bash "$HERE/lib/host-init.sh" "$host" "$PROVISION/rootfs" "$dir" "$share" "$bin" "$images" \
            "$(cgroup_v1)" "$(cgroup_v2)"
    ) </dev/null >"$dir/init.log" 2>&1 9>&- &
}

# cluster_reboot HOST: ends everything that runs there, at once, as a power cut would, and starts it
# again with its disk as it was. What "services" started there has to be started again.
cluster_reboot() {
    local host=${1-} pid
    need_host "$host"
    pid=$(host_pid "$host") || die "$host is not up: testcluster/cluster up"
    kill -KILL "$pid"
    wait_until 20 host_gone "$host" || die "processes of $host do not end"
    rm "$STATE/hosts/$host/pid"
    cgroup_create "$host"
    host_start "$host"
    wait_until 60 host_ready "$host" || die "$host did not start: $(tail -n 5 "$STATE/hosts/$host/init.log")"
    cgroup_delegate "$host"
    # -b: the kernel is the machine's, so slurmd cannot see that the node has just booted.
    slurm_daemons "$host" -b || die "the daemons of $host did not start: $(tail -n 5 "$STATE/hosts/$host/daemons.log")"
    wait_until 120 slurm_ready || die "Slurm's nodes did not become usable: $(slurm_states 2>&1)"
}

# host_gone HOST: no process is left, and neither is a cgroup that Slurm made.
host_gone() {
    local mount
    while read -r mount; do
        [ ! -d "$mount/$CGROUP_NAME/$1" ] || [ -z "$(find "$mount/$CGROUP_NAME/$1" -name cgroup.procs -exec cat {} +)" ] || return 1
    done < <(cgroup_hierarchies)
    while read -r mount; do
        [ ! -d "$mount/$CGROUP_NAME/$1" ] || find "$mount/$CGROUP_NAME/$1" -mindepth 1 -depth -type d -exec rmdir {} +
    done < <(cgroup_hierarchies)
}

# host_pid HOST: the id, on this machine, of the host's process 1. The cgroup shows that the number
# has not passed to another process.
host_pid() {
    local pid
    pid=$(cat "$STATE/hosts/$1/pid" 2>/dev/null) && grep -q "/$CGROUP_NAME/$1\(/\|$\)" "/proc/$pid/cgroup" 2>/dev/null &&
        printf '%s\n' "$pid"
}

# host_ready HOST: host-init.sh has ended by becoming tini.
host_ready() {
    local pid
    pid=$(host_pid "$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = tini ]
}

# host_daemons HOST: which of the host's daemons run.
host_daemons() {
    local mount
    mount=$(cgroup_hierarchies | head -n 1)
    find "$mount/$CGROUP_NAME/$1" -name cgroup.procs -exec cat {} + 2>/dev/null | sed 's|.*|/proc/&/comm|' |
        xargs -r cat 2>/dev/null | sort -u | grep -xE 'munged|sshd|slurmctld|slurmd' || true
}

# host_healthy HOST: it runs with all the daemons it should have.
host_healthy() {
    local daemon running
    host_ready "$1" || return 1
    running=$(host_daemons "$1")
    for daemon in ${DAEMONS[$1]}; do grep -qx "$daemon" <<<"$running" || return 1; done
}

cluster_healthy() {
    local host
    for host in "${HOSTS[@]}"; do
        host_healthy "$host" || { note "$host is not whole" && return 1; }
    done
    slurm_ready || { note "Slurm's nodes are not all usable" && return 1; }
}

cluster_status() {
    local host states='' state rc=0
    states=$(slurm_states 2>/dev/null) || true
    for host in "${HOSTS[@]}"; do
        if host_healthy "$host"; then state=up; else state=down && rc=1; fi
        printf '%-7s %-10s %-5s %-22s %s\n' "$host" "${ADDRESS[$host]}" "$state" \
            "$(host_daemons "$host" | tr '\n' ' ')" "$(awk -v h="$host" '$1 == h { print $2 }' <<<"$states")"
    done
    return $rc
}
