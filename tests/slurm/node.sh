#!/bin/sh
# A real Slurm on this machine alone: munged, slurmctld and slurmd of Debian's slurm-wlm, without systemd.
#
#   node.sh install          the packages, where they are missing (as root)
#   node.sh start FOLDER     start it; again does nothing. Then: export SLURM_CONF=FOLDER/slurm.conf
#   node.sh stop FOLDER      end its jobs and its daemons
#
# Configuration, key, sockets, logs and state lie in FOLDER and the ports are free ones: a Slurm that the machine
# has already is neither used nor touched.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

has() { command -v "$1" >/dev/null 2>&1; }
complete() { has munged && has mungekey && has slurmctld && has slurmd && has sbatch; }

install() {
    if complete; then return; fi
    if ! has apt-get || [ "$(id -u)" -ne 0 ]; then
        echo "node.sh: slurm-wlm and munge are missing, and only root on Debian can install them" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # a package must not start daemons of its own
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        made=$policy
    fi
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends slurm-wlm munge; } >&2 || failed=1
    [ -z "$made" ] || rm -f "$made"
    [ -z "${failed:-}" ] && complete
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

configure() {
    node=$(hostname -s)
    user=$(id -un)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    cat >"$1/slurm.conf" <<END
ClusterName=tololo
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$1/munge.socket
CredType=cred/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
# no control groups: containers seldom may make them
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((memory / cores / 2))
# memory is watched, and a job that takes more than it asked for is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=300
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=night Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1
PartitionName=urgent Nodes=$node MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=9
END
    mungekey --create --force --keyfile="$1/munge.key"
    mkdir -p "$1/state" "$1/spool"
}

# alive FOLDER DAEMON
alive() { [ -s "$1/$2.pid" ] && kill -0 "$(cat "$1/$2.pid" 2>/dev/null)" 2>/dev/null; }

start() {
    if ! complete; then
        echo "node.sh: slurm-wlm and munge are missing: node.sh install" >&2
        return 1
    fi
    mkdir -p "$1"
    chmod 755 "$1"
    folder=$(cd "$1" && pwd)
    export SLURM_CONF="$folder/slurm.conf"
    [ -s "$SLURM_CONF" ] || configure "$folder"
    alive "$folder" munged || munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>/dev/null
    alive "$folder" slurmctld || slurmctld -f "$SLURM_CONF"
    alive "$folder" slurmd || slurmd -f "$SLURM_CONF"
    waited=0
    until sinfo --noheader --format=%t 2>/dev/null | grep -Eq '^(idle|mix|alloc)$'; do
        waited=$((waited + 1))
        if [ $waited -gt 60 ]; then
            echo "node.sh: the node does not come up:" >&2
            tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
            return 1
        fi
        sleep 0.5
    done
}

stop() {
    [ -s "$1/slurm.conf" ] || return 0
    folder=$(cd "$1" && pwd)
    export SLURM_CONF="$folder/slurm.conf"
    if alive "$folder" slurmctld; then
        scancel --quiet --user="$(id -un)" || true
        waited=0
        while [ -n "$(squeue --noheader 2>/dev/null)" ] && [ $waited -lt 40 ]; do
            waited=$((waited + 1))
            sleep 0.25
        done
    fi
    for daemon in slurmd slurmctld munged; do
        if alive "$folder" $daemon; then
            kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
            waited=0
            while alive "$folder" $daemon && [ $waited -lt 40 ]; do
                waited=$((waited + 1))
                sleep 0.25
            done
        fi
        rm -f "$folder/$daemon.pid"
    done
}

case "${1:-} ${2:+folder}" in
"install ") install ;;
"start folder") start "$2" ;;
"stop folder") stop "$2" ;;
*)
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2
    ;;
esac
