#!/bin/bash
# Run a command beside a SLURM of one machine, on loopback, with ports and files of its own; no systemd.
#   tests/slurm/with_slurm.sh COMMAND ...
# Whatever happens, the daemons are stopped by their pid files and the files removed.
set -eu

if [ "$(id -u)" != 0 ]; then
    echo "test-slurm: the daemons need root; run it as root, for example in a container" >&2
    exit 2
fi
for program in slurmctld slurmd sbatch munged; do
    command -v "$program" >/dev/null || missing=$program
done
if [ -n "${missing-}" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "test-slurm: install slurmctld, slurmd, the SLURM client commands and munge (no apt-get here)" >&2
        exit 2
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        slurmctld slurmd slurm-client munge >/dev/null
fi

home=$(mktemp -d)
chmod 755 "$home" # munge looks at it as another user
export SLURM_CONF=$home/slurm.conf

stop() {
    trap - EXIT
    trap '' INT TERM HUP # a second one must not cut this short
    [ -z "${command-}" ] || kill -- "-$command" 2>/dev/null || true
    if [ -f "$home/slurmctld.pid" ]; then
        scancel --quiet --user=root || true
        for _ in $(seq 60); do # slurmd leaves running tasks alone when it stops
            [ -n "$(squeue --noheader 2>/dev/null)" ] || break
            sleep 0.5
        done
    fi
    for daemon in slurmd slurmctld munge/munged; do
        [ -f "$home/$daemon.pid" ] || continue
        pid=$(cat "$home/$daemon.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 40); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.25
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

free_ports() {
    python3 - <<'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}
read -r controller_port node_port <<<"$(free_ports)"
cpus=$(env -u OMP_NUM_THREADS nproc)

install -d -m 755 -o munge -g munge "$home/munge"
dd if=/dev/urandom of="$home/munge/key" bs=128 count=1 status=none
chown munge:munge "$home/munge/key"
chmod 400 "$home/munge/key"
setpriv --reuid=munge --regid=munge --clear-groups munged --key-file="$home/munge/key" \
    --socket="$home/munge/socket" --pid-file="$home/munge/munged.pid" --log-file="$home/munge/munged.log" \
    --seed-file="$home/munge/munged.seed"

mkdir "$home/state" "$home/spool"
cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits as long as a credential lives before it starts again
AuthInfo=socket=$home/munge/socket,cred_expire=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=$(hostname) Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld
slurmd
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
    sleep 0.5
done
if [ "$(sinfo --noheader --format=%T)" != idle ]; then
    echo "test-slurm: SLURM did not start:" >&2
    tail -n 20 "$home"/*.log "$home"/munge/*.log >&2
    exit 1
fi
echo "$(sbatch --version) on loopback, $cpus CPUs"
setsid "$@" & # in the background, so that a signal is heard at once
command=$!
wait "$command"
