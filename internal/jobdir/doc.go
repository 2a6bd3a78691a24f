// Package jobdir owns the job's directory on a cluster's shared storage: its
// names, the programs that travel with a job, the reasons that its receipts
// give, the check of what a node signed, and the opening of it on a node.
//
// The submitter lays out the directory, and nobody writes there after that but
// the job itself, below nodes:
//
//	sealbatch-RUN/             0700  job-prep; RUN: the run's first 16 digits
//	├── manifest.json          0600  job-prep: what the job is, pinned by the digest in job.sbatch
//	├── manifest.json.sig      0600  job-prep: the submitter's signature of it
//	├── job.sbatch             0600  job-prep: the script that sbatch got, without the nodes' credentials
//	│                                (one-time tokens at tier C), unless it is left for somebody to submit
//	├── job.log                0600  the script: the job's log
//	├── bin/                   0700  job-prep
//	│   ├── sealbatch          0700
//	│   └── gocryptfs          0700
//	├── scripts/               0700  job-prep
//	│   ├── input/NAME         0600  verification scripts, run before the application
//	│   └── output/NAME        0600  and after it
//	└── nodes/                 0700  job-prep
//	    └── NODE/              0700  that node's supervisor; NODE.rN for the Nth restart
//	        ├── statement.jws  0600  the key service's word for the node's signing key S
//	        ├── keys.age       0600  the output volume's master key, wrapped to the recipients
//	        ├── origin.jws     0600  S's word that keys.age and output/ are this job's own
//	        ├── output/        0700  gocryptfs: the output volume's cipher directory, until it is sealed
//	        ├── output.index   0600  a sealed index over it, if it could not be sealed
//	        ├── scratch/       0700  gocryptfs: a volume whose key dies with the job
//	        ├── reserve        0600  room for the index and the receipt, until they are written
//	        ├── results.sealed 0600  the outputs as a sealed volume
//	        ├── left.age       0600  what could not be kept of the outputs, by name, encrypted to the recipients
//	        └── receipt.jws    0600  S's account of the run; the last thing that is written
//
// Files that are being written have the suffix .partial. Where the directory
// above is setgid, as project directories are, so are the ones made by job-prep;
// what a node makes has its user's own group.
//
// # Opening
//
// Members of a project can rename what lies in its directories at any time, and
// scratch directories are reached through symbolic links of the site's
// (/scratch/project_1 leads to /pfs/lustre2/...). So on a node the job directory
// is opened once, by Open, and everything below is reached from there; nobody
// else uses its path.
//
// Open walks from "/", one name at a time:
//
//   - A directory that anyone can write is passed only with the sticky bit. Ones
//     that a group can write, or that belong to others than root and oneself, are
//     passed, too; from there on the walk is among what others can change.
//   - A symbolic link is followed only where nothing above it can be changed by
//     others, and if it belongs to root or oneself. A relative target is walked
//     from the directory that holds the link, an absolute one from "/", by the
//     same rules; ".." goes back the way that was come.
//   - Where the walk ends must be a directory of one's own with mode 0700: nobody
//     else has put anything there. Others can still have put one of one's own in
//     the place of another, so it must hold the manifest whose digest the job's
//     script carries.
//
// Mode bits and owners are those of the opened directory, never of a name.
// Descriptors are opened by O_PATH, since os.Root.OpenRoot needs the permission
// to read each directory on the way, which sites do not give for /home or
// /scratch (0711), and since between its looking and opening an automounter can
// put a file system.
package jobdir
