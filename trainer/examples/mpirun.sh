#!/bin/sh
# One training on the hosts of a hostfile, one process each:
#   HOSTS=hosts RECIPE=recipe.yaml OUT=/shared/run sh trainer/examples/mpirun.sh
# The same command resumes a run that was stopped or has died. Further arguments
# are passed to evatool. Without HOSTS all processes run on this machine.
set -eu
N=${N:-$([ -n "${HOSTS:-}" ] && grep -c . "$HOSTS" || echo 2)}
case $(mpirun --version 2>&1) in
*"Open MPI"*) # btl_tcp_links: one connection does not fill a fast link
	# sigkill_timeout: SIGTERM arrives after 15 s, and leaves 15 s for the checkpoint
	exec mpirun -n "$N" ${HOSTS:+--hostfile "$HOSTS" --map-by ppr:1:node} \
		--bind-to none --mca btl_tcp_links 4 --mca odls_base_sigkill_timeout 15 \
		evatool train "${RECIPE:-recipe.yaml}" --out "${OUT:-/shared/run}" "$@"
	;;
*) # MPICH and its derivatives
	exec mpirun -n "$N" ${HOSTS:+-f "$HOSTS" -ppn 1} -bind-to none \
		evatool train "${RECIPE:-recipe.yaml}" --out "${OUT:-/shared/run}" "$@"
	;;
esac
