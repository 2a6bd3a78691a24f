# shellcheck shell=bash
# shellcheck disable=SC2034 # used in the other files
# Names, paths and small helpers.

HOSTS=(laptop login cn1 cn2 cn3 keys)
declare -A ADDRESS=([laptop]=10.77.0.2 [login]=10.77.0.3 [cn1]=10.77.0.4 [cn2]=10.77.0.5 [keys]=10.77.0.6 [cn3]=10.77.0.7)
# What must run on each host. keys has no MUNGE on purpose: the key service is outside the realm.
declare -A DAEMONS=([laptop]='' [login]='munged sshd slurmctld' [cn1]='munged slurmd' [cn2]='munged slurmd' [cn3]='munged slurmd' [keys]='')

die() {
    printf 'cluster: %s\n' "$*" >&2
    exit 1
}

note() { printf 'cluster: %s\n' "$*" >&2; }

if [ "$EUID" -ne 0 ]; then
    command -v sudo >/dev/null || die "needs root: run it as root, or install sudo"
    exec sudo --preserve-env=HOME,XDG_CACHE_HOME,TERM,SEALBATCH_CACHE,SEALBATCH_STATE,SEALBATCH_STATE_SIZE,SEALBATCH_CLUSTER,SEALBATCH_PROCTRACK,SEALBATCH_MIRROR "$SELF" "$@"
fi

CLUSTER=${SEALBATCH_CLUSTER:-sb}
[[ $CLUSTER =~ ^[a-z][a-z0-9]{0,15}$ ]] || die "SEALBATCH_CLUSTER must be a short word of a-z and 0-9, not \"$CLUSTER\""
CACHE=${SEALBATCH_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/sealbatch}
STATE_BASE=${SEALBATCH_STATE:-/run/sealbatch-testcluster}
STATE=$STATE_BASE/$CLUSTER
# Overlay options separate paths with these, so they cannot be part of one.
[[ $CACHE$STATE != *[,:\\[:space:]]* ]] || die "the cache and state paths must not hold spaces, commas, colons or backslashes"

need_host() {
    local host
    for host in "${HOSTS[@]}"; do [ "$host" = "${1-}" ] && return; done
    die "no host \"${1-}\": the hosts are ${HOSTS[*]}"
}

# locked FUNCTION ARG...: one up or down at a time for this cluster. The descriptor is opened
# here and closed in everything that outlives the command (see host_start, exec_enter).
locked() {
    mkdir -p "$STATE_BASE"
    exec 9>"$STATE_BASE/$CLUSTER.lock"
    flock 9
    "$@"
}

# wait_until SECONDS COMMAND...: polls every 20 ms.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -le "$deadline" ] || return 1
        sleep 0.02
    done
}
