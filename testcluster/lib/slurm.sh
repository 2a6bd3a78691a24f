# shellcheck shell=bash
# Slurm and MUNGE on login, cn1, cn2 and cn3.

# slurm_configure PROCTRACK: slurm.conf, cgroup.conf and the MUNGE key, the same on every host.
slurm_configure() {
    mkdir -p "$STATE/slurm"
    head -c 128 /dev/urandom >"$STATE/slurm/munge.key"
    # KillWait, MinJobAge and PrivateData matter to the tests; the rest is for short waits. A node that
    # comes back without a job that is older than BatchStartTimeout and ten seconds has lost it. Nodes
    # claim what this machine need not have (config_overrides), and jobs share cores, so that tests
    # run side by side.
    cat >"$STATE/slurm/slurm.conf" <<EOF
ClusterName=testcluster
SlurmctldHost=login(${ADDRESS[login]})
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
ProctrackType=proctrack/$1
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PrivateData=jobs
KillWait=10
BatchStartTimeout=2
MinJobAge=300
ReturnToService=2
MpiDefault=none
PrologFlags=Alloc
SlurmdParameters=config_overrides
NodeName=cn1 NodeAddr=${ADDRESS[cn1]} CPUs=2 RealMemory=16000 State=UNKNOWN
NodeName=cn2 NodeAddr=${ADDRESS[cn2]} CPUs=2 RealMemory=16000 State=UNKNOWN
NodeName=cn3 NodeAddr=${ADDRESS[cn3]} CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=standard Nodes=cn1,cn2 Default=YES MaxTime=INFINITE DefaultTime=10 State=UP OverSubscribe=FORCE:8
PartitionName=small Nodes=cn1,cn2 MaxTime=60 DefaultTime=10 State=UP OverSubscribe=FORCE:8
PartitionName=nouserns Nodes=cn3 MaxTime=60 DefaultTime=10 State=UP OverSubscribe=FORCE:8
EOF
    # There is no systemd to make cgroups for slurmd.
    cat >"$STATE/slurm/cgroup.conf" <<EOF
CgroupPlugin=cgroup/v$(cgroup_version)
IgnoreSystemd=yes
$([ "$(cgroup_version)" = 1 ] || echo EnableControllers=yes)
ConstrainRAMSpace=no
EOF
}

slurm_files() {
    mkdir -p "$1/etc/slurm" "$1/etc/munge"
    install -m 644 "$STATE/slurm/slurm.conf" "$STATE/slurm/cgroup.conf" "$1/etc/slurm/"
    user_file munge 400 "$STATE/slurm/munge.key" "$1/etc/munge/munge.key"
}

slurm_start() {
    local host starting=()
    for host in login cn1 cn2 cn3; do
        slurm_daemons "$host" &
        starting+=($!)
    done
    for host in login cn1 cn2 cn3; do
        wait "${starting[0]}" || die "the daemons of $host did not start: $(tail -n 5 "$STATE/hosts/$host/daemons.log")"
        starting=("${starting[@]:1}")
    done
    wait_until 120 slurm_ready || die "Slurm's nodes did not become usable: $(slurm_states 2>&1)"
}

# slurm_daemons HOST [SLURMD-OPTION...]: starts what runs there. The daemons put themselves into the
# background.
slurm_daemons() {
    local host=$1 daemon
    shift
    for daemon in ${DAEMONS[$host]}; do slurm_daemon "$host" "$daemon" "$@"; done </dev/null >"$STATE/hosts/$host/daemons.log" 2>&1 9>&-
}

slurm_daemon() {
    local host=$1 daemon=$2 own=()
    shift 2
    # Under version 2 slurmd turns the cgroup it starts in into an inner one, so it gets its own.
    # shellcheck disable=SC2016 # for the shell on the host
    [ "$(cgroup_version)" = 1 ] ||
        own=(sh -c 'mkdir -p /sys/fs/cgroup/slurmd && echo 0 >/sys/fs/cgroup/slurmd/cgroup.procs && exec "$@"' sh)
    case $daemon in
        munged) (exec_enter "$host" munge -- /usr/sbin/munged) ;;
        sshd) (exec_enter "$host" root -- /usr/sbin/sshd) ;;
        slurmctld) (exec_enter "$host" root -- /usr/sbin/slurmctld -i -c) ;;
        slurmd) (exec_enter "$host" root -- "${own[@]}" /usr/sbin/slurmd -N "$host" "$@") ;;
    esac
}

# slurm_restart HOST DAEMON: what runs on through it must not notice.
slurm_restart() {
    local host=${1-} daemon=${2-} log
    need_host "$host"
    case " ${DAEMONS[$host]} " in *" $daemon "*) ;; *) die "restart: $host has no daemon \"$daemon\": ${DAEMONS[$host]:-none}" ;; esac
    log=$STATE/hosts/$host/daemons.log
    (exec_enter "$host" root -- pkill -x "$daemon") || die "$daemon does not run on $host"
    wait_until 60 slurm_stopped "$host" "$daemon" || die "$daemon on $host does not end"
    if [ "$daemon" = slurmctld ]; then # -c, as at first, would forget all jobs
        (exec_enter "$host" root -- /usr/sbin/slurmctld) </dev/null >>"$log" 2>&1
    else
        slurm_daemon "$host" "$daemon" </dev/null >>"$log" 2>&1
    fi || die "$daemon on $host did not start: $(tail -n 5 "$log")"
    wait_until 120 slurm_ready || die "Slurm's nodes did not become usable: $(slurm_states 2>&1)"
}

slurm_stopped() { ! (exec_enter "$1" root -- pgrep -x "$2") >/dev/null; }

# slurm_states: "NODE STATE" of every node.
slurm_states() (exec_enter login root -- sinfo -h -N -p standard,nouserns -o '%N %T' </dev/null)

slurm_ready() { [ "$(slurm_states 2>/dev/null | grep -cE ' (idle|mixed|allocated|completing)$')" = 3 ]; }
