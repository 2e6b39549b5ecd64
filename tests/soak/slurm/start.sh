#!/bin/bash
# start.sh DIR: two nodes of a real Slurm on loopback with all of their files in DIR, until this process is asked to end
# (SIGTERM) or its parent ends. DIR/slurm.conf is there at once, DIR/up when the cluster takes jobs. As root; fixed ports: one at a time.
set -u
dir=$1
host=$(hostname)
daemons=()
mkdir -p "$dir"/{state,node1,node2,munge}
chmod 755 "$dir" "$dir/munge"
dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none
chmod 600 "$dir/munge/key"

# cred_expire: a requeued job waits until its old credential has run out (141 s with Slurm's default).
# preempt_send_user_signal: a preempted job gets the signal that it asked for, and GraceTime seconds.
# StateSaveLocation and the node's own folders lie in DIR, so nothing of this machine's own Slurm is touched.
cat > "$dir/slurm.conf" <<CONF
ClusterName=soak
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=26817
SrunPortRange=26900-26999
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[26821-26822] CPUs=2 RealMemory=4000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF=$dir/slurm.conf

stop() {
  trap - EXIT TERM INT
  # First the jobs: a step outlives its slurmd.
  timeout 5 scancel --full --me 2> /dev/null
  for _ in $(seq 150); do [ -z "$(timeout 2 squeue --noheader 2> /dev/null)" ] && break; sleep 0.1; done
  for daemon in "${daemons[@]}"; do kill "$daemon" 2> /dev/null; done
  wait "${daemons[@]}"
  exit 0
}
trap stop EXIT TERM INT

munged --foreground --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
  --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" 2> "$dir/munged.log" &
daemons+=($!)
for _ in $(seq 100); do [ -S "$dir/munge/socket" ] && break; sleep 0.05; done
slurmctld -D 2> "$dir/slurmctld.log" &
daemons+=($!)
for node in node1 node2; do
  slurmd -D -N "$node" 2> "$dir/$node.log" &
  daemons+=($!)
done
for _ in $(seq 300); do
  if [ "$(timeout 2 sinfo --noheader --partition=low --states=idle --format=%D 2> /dev/null)" = 2 ]; then
    touch "$dir/up"
    break
  fi
  sleep 0.1
done
# Until a daemon dies, or whoever started this.
while true; do
  for process in "$PPID" "${daemons[@]}"; do kill -0 "$process" 2> /dev/null || exit; done
  sleep 0.5
done
