# shellcheck shell=bash
# Running commands on hosts.

# exec_enter HOST USER [PREFIX...] -- CMD ARG...: becomes CMD on HOST as USER, in the host's cgroup and
# namespaces, with USER's groups, a clean environment and the home directory as working directory.
# No shell sees the arguments. It replaces the calling shell, so callers fork. PREFIX is a command
# that execs its arguments, run before the host is entered.
exec_enter() {
    local host=$1 user=$2 prefix=() pid entry uid gid home shell path
    shift 2
    while [ "$1" != -- ]; do prefix+=("$1") && shift; done
    shift
    pid=$(host_pid "$host") || die "$host is not up: testcluster/cluster up"
    # Users can be added on a running host, so its own table counts.
    entry=$(awk -F: -v name="$user" '$1 == name' "/proc/$pid/root/etc/passwd")
    [ -n "$entry" ] || die "no user \"$user\" on $host"
    IFS=: read -r _ _ uid gid _ home shell <<<"$entry"
    path=/usr/local/bin:/usr/bin:/bin
    [ "$uid" -ne 0 ] || path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    case $host in laptop | login | keys) path=/opt/sealbatch/bin:$path ;; esac
    [ -d "/proc/$pid/root$home" ] || home=/
    [ "$host" != cn3 ] || prefix=("$HERE/lib/no-userns.pl" "${prefix[@]}")
    cgroup_join "$host"
    cgroup_settle
    # pdeathsig: when nsenter is killed, so is CMD. --default-signal: bash ignores these two in what
    # it starts in the background.
    exec "${prefix[@]}" nsenter -t "$pid" -m -u -p -i -n -C -r -w -- \
        "${SETTLE[@]}" setpriv --reuid="$uid" --regid="$gid" --init-groups --pdeathsig KILL -- \
        env -i -C "$home" --default-signal=INT,QUIT \
        HOME="$home" USER="$user" LOGNAME="$user" SHELL="$shell" PATH="$path" LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        "$@" 9>&-
}

cluster_exec() {
    local host=${1-} user=root terminal='' log=''
    need_host "$host"
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -u) user=${2-} && shift ;;
            -d) log=${2-} && shift ;;
            -i) terminal=yes ;;
            --) break ;;
            *) die "exec: unknown argument \"$1\" (put -- before the command)" ;;
        esac
        shift
    done
    [ "${1-}" = -- ] && shift
    [ $# -gt 0 ] || [ -n "$terminal" ] || die "exec: no command; exec HOST -i gives a shell"

    if [ -n "$log" ]; then
        # shellcheck disable=SC2016 # for the shell on the host
        exec_enter "$host" "$user" -- sh -c 'log=$1; shift; : >>"$log" || exit; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!' sh "$log" "$@"
    elif [ -n "$terminal" ]; then
        [ $# -gt 0 ] || set -- bash -l
        # script(1) makes the terminal on the host's own devpts. It takes a command line for $SHELL.
        exec_enter "$host" "$user" -- env SHELL=/bin/bash script -q -e -O /dev/null -c "exec ${*@Q}"
    else
        exec_forward "$host" "$user" "$@"
    fi
}

# exec_forward HOST USER CMD...: CMD runs in a session of its own, and signals to this process are
# passed on, so that one to its whole process group also reaches CMD exactly once. When this
# process is killed, so is CMD.
exec_forward() {
    local host=$1 user=$2 signal rc
    shift 2
    for signal in HUP INT QUIT TERM USR1 USR2; do
        # shellcheck disable=SC2064 # the name is wanted now
        trap "exec_signal $signal" "$signal"
    done
    exec_enter "$host" "$user" setsid setpriv --pdeathsig KILL -- "$@" <&0 &
    ENTERED=$!
    while :; do
        rc=0
        wait "$ENTERED" 2>/dev/null || rc=$?
        # wait also returns when a trap has run; then the process is still there.
        kill -0 "$ENTERED" 2>/dev/null || exit "$rc"
    done
}

exec_signal() {
    local child
    child=$(pgrep -P "$ENTERED") || child=$ENTERED
    kill -s "$1" "$child" 2>/dev/null || true
}

# cluster_path HOST PATH: symbolic links are followed as the host follows them.
cluster_path() {
    local host=${1-} pid path
    need_host "$host"
    [[ ${2-} = /* ]] || die "path: wants HOST and an absolute path on it"
    pid=$(host_pid "$host") || die "$host is not up: testcluster/cluster up"
    path=$(exec_enter "$host" root -- realpath -m -- "$2")
    printf '/proc/%s/root%s\n' "$pid" "${path%/}"
}
