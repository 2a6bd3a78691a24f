// Package noderun is the supervisor that runs once on every allocated node of
// a job, as the srun task's own process. It attests, fetches keys, mounts,
// checks the inputs, runs the application in its container, seals the results
// and signs a receipt; then it unmounts and wipes.
//
// On the cluster's shared storage, in JobDir/nodes/NODE (NODE.rN for the Nth
// restart), it leaves:
//
//	statement.jws    the key service's word for this node's signing key S
//	keys.age         the output volume's master key, wrapped to the recipients
//	origin.jws       S's word that keys.age and output/ are this job's own
//	output/          the output volume's cipher directory, until it is sealed
//	output.index     a sealed index over it, if it could not be sealed
//	reserve          room for that and the receipt, until then
//	results.sealed   the outputs as a sealed volume
//	receipt.jws      S's account of the run; the last thing that is written
//
// A supervisor that is killed leaves the first four: the outputs written so
// far open with the recipients' identities (volume.OpenCipherDir, or stock age
// and gocryptfs).
//
// Inside the container:
//
//	/sd-container/encrypted/NAME   the inputs, read-only
//	/sd-container/input            the first of them
//	/sd-container/output           the output volume, and the working directory;
//	                               stdout, stderr, exit_code and sealbatch.log land here too
//	/sd-container/scratch          a volume under a key that dies with the job
//	/sd-container/home, /tmp, /var/tmp   in the scratch volume
//	/sd-container/tools/input_logic/jobs, .../output_logic/jobs   the verification scripts
//
// The whole tree is one directory of a private tmpfs that is bound once, so
// names of data sets stand neither on the runtime's command line nor in its
// environment. The application's own arguments do show in its command line, as
// every program's do: only a site that mounts /proc with hidepid hides them from
// other users.
package noderun
